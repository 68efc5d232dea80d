"""Operations of a forward pass that know nothing of block types, and the loops that run them."""
