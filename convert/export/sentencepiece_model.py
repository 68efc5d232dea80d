"""A sentencepiece model file: a protobuf message, written field by field.

Field numbers: sentencepiece src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from ggq.runtime.tokenizer._vocabulary import TokenType

VARINT, BYTES, FLOAT = 0, 2, 5
BPE = 2
# ModelProto
PIECES, TRAINER, NORMALIZER = 1, 2, 3
# SentencePiece
PIECE, SCORE, TYPE = 1, 2, 3
# TrainerSpec
MODEL_TYPE, VOCAB_SIZE, BYTE_FALLBACK = 3, 4, 35
ROLE_IDS = {"unk": 40, "bos": 41, "eos": 42, "pad": 43}
ROLE_PIECES = {"unk": 45, "bos": 46, "eos": 47, "pad": 48}
# NormalizerSpec
NAME, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES = 1, 3, 4, 5


def serialize(
    pieces: Iterable[tuple[str, float, int]], space_prefix: bool, roles: Mapping[str, int]
) -> bytes:
    """Bytes of a BPE model with `pieces` of (text, score, type), types as in GGUF."""
    table = list(pieces)
    model = b"".join(
        _bytes(PIECES, _text(PIECE, text) + _float(SCORE, score) + _varint(TYPE, kind))
        for text, score, kind in table
    )
    has_bytes = any(kind == TokenType.BYTE for _, _, kind in table)
    trainer = _varint(MODEL_TYPE, BPE) + _varint(VOCAB_SIZE, len(table))
    trainer += _varint(BYTE_FALLBACK, has_bytes)
    for role, field in ROLE_IDS.items():
        token = roles.get(role, -1)
        trainer += _varint(field, token)
        if 0 <= token < len(table):
            trainer += _text(ROLE_PIECES[role], table[token][0])
    normalizer = _text(NAME, "identity") + _varint(ADD_DUMMY_PREFIX, space_prefix)
    normalizer += _varint(REMOVE_EXTRA_WHITESPACES, 0) + _varint(ESCAPE_WHITESPACES, 1)
    return model + _bytes(TRAINER, trainer) + _bytes(NORMALIZER, normalizer)


def _number(value: int) -> bytes:
    """`value` in groups of seven bits, the lowest first; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3 | VARINT) + _number(value)


def _float(field: int, value: float) -> bytes:
    return _number(field << 3 | FLOAT) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _number(field << 3 | BYTES) + _number(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
