"""Writes the generated part of the calibration text: tables, JSON, tool calls, logs, sums.

python -m tests.written_corpus FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 20
NAMES = (
    "Ana Petrov Liu Wei Fatima Johansson Diego Okafor Mei Tanaka Noah Castellano Ingrid Rao Tomás "
    "Haddad Olu Brandt Priya Novak Elif Moreau Kwame Silva Hana Keller Yusuf Nguyen Marta Olsen"
).split()
CITIES = (
    "Lisbon Nairobi Oslo Osaka Lima Tallinn Montreal Accra Hanoi Bristol Valencia Pune Kraków "
    "Izmir Perth Bergen Quito Antwerp Daegu Tunis"
).split()
THINGS = (
    "pencil lamp notebook kettle bicycle jacket ladder backpack keyboard blanket drill teapot "
    "helmet camera basket mirror tent clock sofa umbrella"
).split()
COLORS = "red blue green black white yellow grey orange".split()
SERVICES = "api worker billing search mailer gateway auth cache".split()
LEVELS = ["DEBUG", "INFO", "INFO", "INFO", "WARN", "ERROR"]
EVENTS = [
    "request finished status={status} ms={ms} path=/v1/{thing}s/{id}",
    "cache miss for key {thing}:{id}, loading from the database",
    "retrying in {ms} ms after {status} from {city}",
    "user {name} signed in from {city}",
    "slow query ({ms} ms): SELECT * FROM {thing}s WHERE id = {id}",
    "connection reset by peer while reading {id} bytes",
]


class Writer:
    """Seeded pieces of text."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def name(self) -> str:
        return f"{self.random.choice(NAMES)} {self.random.choice(NAMES)}"

    def date(self) -> str:
        day = self.random.randint(1, 28)
        return f"{self.random.randint(1998, 2026)}-{self.random.randint(1, 12):02}-{day:02}"

    def price(self) -> float:
        return round(self.random.uniform(0.5, 900), 2)

    def record(self) -> dict[str, Any]:
        pick = self.random.choice
        return {
            "id": self.random.randint(1000, 999999),
            "name": self.name(),
            "city": pick(CITIES),
            "since": self.date(),
            "active": self.random.random() < 0.7,
            "items": [
                {"sku": f"{pick(THINGS)[:3].upper()}-{self.random.randint(10, 99)}",
                 "title": f"{pick(COLORS)} {pick(THINGS)}",
                 "price": self.price(), "count": self.random.randint(1, 12)}
                for _ in range(self.random.randint(0, 3))
            ],
            "note": pick([None, "", "call first", "ask for a receipt", "paid in cash"]),
        }  # fmt: skip

    def json_block(self) -> str:
        return json.dumps(
            self.record(), indent=self.random.choice([None, 2, 4]), ensure_ascii=False
        )

    def csv(self) -> str:
        rows = ["order_id,date,customer,city,item,count,price"]
        for _ in range(self.random.randint(6, 16)):
            item = f"{self.random.choice(COLORS)} {self.random.choice(THINGS)}"
            rows.append(
                f"{self.random.randint(10000, 99999)},{self.date()},{self.name()},"
                f"{self.random.choice(CITIES)},{item},{self.random.randint(1, 9)},{self.price()}"
            )
        return "\n".join(rows)

    def table(self) -> str:
        cities = self.random.sample(CITIES, self.random.randint(3, 8))
        rows = ["| city | population | area (km²) | people per km² |", "|---|---:|---:|---:|"]
        for city in cities:
            people, area = self.random.randint(40_000, 9_000_000), self.random.randint(50, 2500)
            rows.append(f"| {city} | {people:,} | {area:,} | {people / area:,.1f} |")
        return "\n".join(rows)

    def log(self) -> str:
        hour, lines = self.random.randint(0, 23), []
        date = self.date()
        for minute in sorted(self.random.sample(range(60), self.random.randint(6, 14))):
            event = self.random.choice(EVENTS).format(
                status=self.random.choice([200, 200, 201, 304, 404, 429, 500, 503]),
                ms=self.random.randint(1, 4000), thing=self.random.choice(THINGS),
                id=self.random.randint(1, 99999), city=self.random.choice(CITIES),
                name=self.random.choice(NAMES).lower(),
            )  # fmt: skip
            second = self.random.randint(0, 59)
            lines.append(
                f"{date}T{hour:02}:{minute:02}:{second:02}Z {self.random.choice(LEVELS):<5} "
                f"{self.random.choice(SERVICES)}[{self.random.randint(100, 9999)}]: {event}"
            )
        return "\n".join(lines)

    def config(self) -> str:
        service, port = self.random.choice(SERVICES), self.random.randint(1024, 65000)
        replicas, memory = self.random.randint(1, 9), self.random.choice([128, 256, 512, 1024])
        if self.random.random() < 0.5:
            return (
                f"service: {service}\nport: {port}\nreplicas: {replicas}\nresources:\n"
                f"  memory: {memory}Mi\n  cpu: {self.random.choice(['250m', '500m', '1'])}\n"
                f"regions:\n  - {self.random.choice(CITIES).lower()}\n"
                f"  - {self.random.choice(CITIES).lower()}\nlogging:\n  level: info\n"
                f"  format: json\n"
            ).rstrip()
        return (
            f'[{service}]\nport = {port}\nreplicas = {replicas}\nmemory_mb = {memory}\n'
            f'owner = "{self.name()}"\ncreated = {self.date()}\n\n[{service}.retry]\n'
            f"attempts = {self.random.randint(2, 6)}\n"
            f"backoff_seconds = {self.random.choice([0.5, 1.0, 2.5])}"
        )  # fmt: skip

    def listing(self) -> str:
        things = self.random.sample(THINGS, self.random.randint(4, 8))
        if self.random.random() < 0.5:
            return "\n".join(f"{n}. {thing.capitalize()}" for n, thing in enumerate(things, 1))
        return f"To do before {self.random.choice(CITIES)}:\n" + "\n".join(
            f"- [{self.random.choice(' x')}] pack the {self.random.choice(COLORS)} {thing}"
            for thing in things
        )

    def arithmetic(self) -> str:
        a, b, c = (self.random.randint(2, 10 ** self.random.randint(1, 4)) for _ in range(3))
        form = self.random.randrange(6)
        if form == 0:
            return f"{a} + {b} - {c} = {a + b - c}"
        if form == 1:
            return f"{a} × {b} = {a * b:,}"
        if form == 2:
            return f"{a * b} / {b} = {a}"
        if form == 3:
            return f"{a} mod {b} = {a % b}, since {a} = {a // b} × {b} + {a % b}"
        if form == 4:
            return f"({a} + {b})² = {a}² + 2·{a}·{b} + {b}² = {(a + b) ** 2}"
        return f"{a % 100} % of {b} is {a % 100 * b / 100:g}"

    def equation(self) -> str:
        a, x = self.random.randint(2, 19), self.random.randint(-30, 30)
        b = self.random.randint(1, 60)
        if self.random.random() < 0.5:
            return (
                f"Solve {a}x + {b} = {a * x + b}.\nSubtract {b} from both sides: {a}x = {a * x}.\n"
                f"Divide by {a}: x = {x}."
            )
        p, q = x, self.random.randint(-12, 12)
        middle, last = -(p + q), p * q
        return (
            f"Factor $x^2 {middle:+d}x {last:+d}$. Two numbers with sum {p + q} and product "
            f"{last} are {p} and {q}, so\n"
            f"$$x^2 {middle:+d}x {last:+d} = (x {-p:+d})(x {-q:+d})$$\n"
            f"and the roots are $x = {p}$ and $x = {q}$."
        )

    def word_problem(self) -> tuple[str, str]:
        name, thing = self.random.choice(NAMES), self.random.choice(THINGS)
        count, price = self.random.randint(2, 12), self.random.randint(3, 80)
        percent = self.random.choice([5, 10, 15, 20, 25])
        full = count * price
        off = full * percent / 100
        question = (
            f"{name} buys {count} {thing}s at ${price} each and has a coupon for {percent} % off. "
            f"How much does {name} pay?"
        )
        answer = (
            f"Without the coupon: {count} × ${price} = ${full}.\n"
            f"The discount: {percent} % of ${full} = ${off:.2f}.\n"
            f"{name} pays ${full} − ${off:.2f} = **${full - off:.2f}**."
        )
        return question, answer

    def journey(self) -> tuple[str, str]:
        start, end = self.random.sample(CITIES, 2)
        speed, hours = self.random.randint(4, 30) * 10, self.random.randint(1, 8)
        question = (
            f"A train needs {hours} hours from {start} to {end} at {speed} km/h. "
            f"How long would it take at {speed // 2} km/h?"
        )
        answer = (
            f"The distance is {speed} km/h × {hours} h = {speed * hours} km. At {speed // 2} km/h "
            f"that takes {speed * hours} / {speed // 2} = {speed * hours / (speed // 2):g} hours."
        )
        return question, answer

    def tool_chat(self) -> list[dict[str, str]]:
        city, day = self.random.choice(CITIES), self.date()
        low, high = sorted(self.random.sample(range(-8, 36), 2))
        sky = self.random.choice(["clear", "light rain", "fog", "overcast", "snow", "wind"])
        tools = json.dumps([
            {"name": "get_weather", "description": "Weather forecast of one day.",
             "parameters": {"type": "object", "required": ["city", "date"], "properties": {
                 "city": {"type": "string"}, "date": {"type": "string", "format": "date"}}}},
            {"name": "create_event", "description": "Puts an event into the calendar.",
             "parameters": {"type": "object", "required": ["title", "start"], "properties": {
                 "title": {"type": "string"}, "start": {"type": "string"},
                 "minutes": {"type": "integer", "default": 60}}}},
        ])  # fmt: skip
        call = json.dumps({"name": "get_weather", "arguments": {"city": city, "date": day}})
        result = json.dumps({"city": city, "date": day, "low": low, "high": high, "sky": sky})
        event = json.dumps(
            {"name": "create_event",
             "arguments": {"title": f"Walk in {city}", "start": f"{day}T10:00", "minutes": 90}}
        )  # fmt: skip
        return [
            {"role": "system", "content": f"You can call these functions:\n{tools}\n"
             "To call one, answer with <tool_call>{...}</tool_call>."},
            {"role": "user", "content": f"What will the weather be like in {city} on {day}?"},
            {"role": "assistant", "content": f"<tool_call>\n{call}\n</tool_call>"},
            {"role": "user", "content": f"<tool_response>\n{result}\n</tool_response>"},
            {"role": "assistant", "content": f"In {city} expect {sky}, with {low} to {high} °C."},
            {"role": "user", "content": "Then put a walk at ten into my calendar."},
            {"role": "assistant", "content": f"<tool_call>\n{event}\n</tool_call>"},
        ]  # fmt: skip

    def extraction_chat(self) -> list[dict[str, str]]:
        record = self.record()
        titles = " and ".join(f"{i['count']} × {i['title']}" for i in record["items"]) or "nothing"
        text = (
            f"{record['name']} from {record['city']}, with us since {record['since']}, "
            f"ordered {titles} (customer number {record['id']})."
        )
        return [
            {"role": "user", "content": f"Turn this into JSON: {text}"},
            {"role": "assistant", "content": "```json\n" + json.dumps(
                record, indent=2, ensure_ascii=False) + "\n```"},
        ]  # fmt: skip

    def sums_chat(self) -> list[dict[str, str]]:
        question, answer = self.random.choice([self.word_problem, self.journey])()
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]


def pieces(makers: list[Callable[[], str]], choose: random.Random, n_bytes: int) -> str:
    """Pieces of the makers in random order, a blank line between them."""
    parts: list[str] = []
    size = 0
    while size < n_bytes:
        parts.append(choose.choice(makers)())
        size += len(parts[-1].encode()) + 2
    return "\n\n".join(parts) + "\n"


def sums(writer: Writer) -> str:
    """A block of maths: several sums, an equation or a word problem."""
    form = writer.random.randrange(3)
    if form == 0:
        return "\n".join(writer.arithmetic() for _ in range(8))
    if form == 1:
        return writer.equation()
    return "\n".join(writer.random.choice([writer.word_problem, writer.journey])())


def files() -> dict[str, str]:
    """File name -> text of every generated document."""
    data, maths, chats = (Writer(SEED + n) for n in range(3))
    makers = [data.json_block, data.csv, data.table, data.log, data.config, data.listing]
    made = [chats.tool_chat, chats.tool_chat, chats.extraction_chat, chats.sums_chat]
    conversations = [{"language": "en", "messages": chats.random.choice(made)()} for _ in range(26)]
    return {
        "records.txt": pieces(makers, data.random, 84_000),
        "sums.txt": pieces([lambda: sums(maths)], maths.random, 38_000),
        "tool-chats.json": conversations_json(conversations),
    }


def conversations_json(conversations: list[dict[str, Any]]) -> str:
    """One conversation a line."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in conversations)
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    for name, text in files().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
