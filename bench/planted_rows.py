"""Planted rows: how many near duplicates and benchmark items are found in real conversations, and how many by mistake.

200 rows each are planted as they are and lightly edited, and 200 unrelated ones are left alone:

1. near duplicates at threshold 0.8: a conversation of at least 100 words again; edited: one word in 100 is replaced,
   left out or added, case and white space change;
2. benchmark items inside the first user message of a conversation; edited: the same for one word in 10, and
   punctuation changes too.

Then the processor time for 200 words of text.

    python bench/planted_rows.py FOLDER      # with sft/*.jsonl.gz and evals/*.jsonl.gz in it
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genesis_sft.conversations.contamination import FEWEST_WORDS, Question, QuestionIndex
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.near_duplicates import near_duplicates, signatures

NUM_PLANTED = 200
THRESHOLD = 0.8


def main(folder: Path) -> None:
    """Print the table."""
    conversations, questions = read_conversations(folder / "sft"), read_questions(folder / "evals")
    print(f"{len(conversations):,} conversations, {len(questions):,} benchmark items from {folder}\n")
    print("| rows | planted | found |\n| --- | --- | --- |")
    for what, counts in (
        ("near duplicate", planted_near_duplicates(conversations)),
        ("benchmark item", planted_items(conversations, questions)),
    ):
        for kind, found in counts.items():
            print(f"| {what}, {kind} | {NUM_PLANTED} | {found} ({found / NUM_PLANTED:.1%}) |")
    index = QuestionIndex(questions)
    wrong = {row for row, _ in index.overlaps(conversations)}
    resembling = near_duplicates(signatures(conversations), THRESHOLD)
    print(f"\nOf all {len(conversations):,} conversations, none of them planted:")
    print(f"  {np.count_nonzero(resembling >= 0)} resemble an earlier one, {len(wrong)} hold a benchmark item")
    num_words = sum(len(message.content.split()) for one in conversations for message in one.messages)
    for name, work in (("signatures", signatures), ("overlaps", index.overlaps)):
        started = time.process_time()
        work(conversations)
        print(f"  {name}: {(time.process_time() - started) / num_words * 200 * 1e6:.0f} µs for 200 words")


def planted_near_duplicates(conversations: Sequence[Conversation], seed: int = 0) -> dict[str, int]:
    """Return how many of the planted rows are found to resemble the row they were made from; of unrelated, any."""
    draw = random.Random(seed)
    originals = draw.sample([one for one in conversations if num_words(one) >= 100], NUM_PLANTED)
    vocabulary = words_of(conversations)
    edited = [edit_conversation(one, draw, vocabulary) for one in originals]
    unrelated = draw.sample([one for one in conversations if one not in originals], NUM_PLANTED)
    found = near_duplicates(signatures([*originals, *originals, *edited, *unrelated]), THRESHOLD)
    exact, light, other = (
        found[start : start + NUM_PLANTED] for start in range(NUM_PLANTED, 4 * NUM_PLANTED, NUM_PLANTED)
    )
    own = np.arange(NUM_PLANTED)
    return {
        "as it is": int(np.count_nonzero(exact == own)),
        "lightly edited": int(np.count_nonzero(light == own)),
        "unrelated": int(np.count_nonzero(other >= 0)),
    }


def planted_items(
    conversations: Sequence[Conversation], questions: Sequence[Question], seed: int = 0
) -> dict[str, int]:
    """Return how many of the planted items are found where they were planted; of unrelated conversations, any."""
    draw = random.Random(seed)
    index, vocabulary = QuestionIndex(questions), words_of(conversations)
    long_enough = [number for number, one in enumerate(questions) if len(one.text.split()) >= FEWEST_WORDS]
    items = draw.sample(long_enough, NUM_PLANTED)
    hosts = draw.sample(range(len(conversations)), 3 * NUM_PLANTED)
    texts = [questions[item].text for item in items]
    edited = [shuffle_marks(edit(text, draw, vocabulary, len(text.split()) / 10), draw) for text in texts]
    counts = {}
    for kind, planted in (("as it is", texts), ("lightly edited", edited)):
        rows = [insert(conversations[hosts.pop()], text) for text in planted]
        held = set(index.overlaps(rows))
        counts[kind] = sum((row, item) in held for row, item in enumerate(items))
    unrelated = [conversations[host] for host in hosts]
    return counts | {"unrelated": len({row for row, _ in index.overlaps(unrelated)})}


def edit(text: str, draw: random.Random, vocabulary: Sequence[str], num_edits: float) -> str:
    """Return the text with so many words replaced, left out or added (of 2.4, two or three), and other white space."""
    words = text.split()
    whole = int(num_edits) + (draw.random() < num_edits % 1)
    for place in sorted(draw.sample(range(len(words)), min(whole, len(words))), reverse=True):
        kind = draw.choice(("replace", "leave out", "add"))
        words[place : place + (kind != "add")] = [] if kind == "leave out" else [draw.choice(vocabulary)]
    spaced = (word.upper() if draw.random() < 0.1 else word for word in words)
    return "".join(word + draw.choice((" ", " ", " ", "  ", "\n")) for word in spaced).strip() or "?"


def shuffle_marks(text: str, draw: random.Random) -> str:
    """Return the text with some punctuation gone and some added."""
    return "".join("" if mark in ".,;:!?" and draw.random() < 0.3 else mark for mark in text.replace(" and ", ", and "))


def edit_conversation(conversation: Conversation, draw: random.Random, vocabulary: Sequence[str]) -> Conversation:
    """Return the conversation with one word in 100 changed, at least one."""
    share = max(1, num_words(conversation) // 100) / num_words(conversation)
    longest = max(conversation.messages, key=lambda message: len(message.content.split()))
    num_edits = round(share * num_words(conversation))
    return replace(
        conversation,
        messages=tuple(
            replace(one, content=edit(one.content, draw, vocabulary, num_edits if one is longest else 0))
            for one in conversation.messages
        ),
    )


def insert(conversation: Conversation, text: str) -> Conversation:
    """Return the conversation with a text at the end of its first user message."""
    first = next(one for one in conversation.messages if one.role == "user")
    longer = replace(first, content=f"{first.content}\n\n{text}")
    return replace(conversation, messages=tuple(longer if one is first else one for one in conversation.messages))


def num_words(conversation: Conversation) -> int:
    """Return the words of all messages together."""
    return sum(len(message.content.split()) for message in conversation.messages)


def words_of(conversations: Sequence[Conversation]) -> list[str]:
    """Return words to edit with."""
    return sorted({word for one in conversations[:1000] for part in one.messages for word in part.content.split()})


def read_conversations(folder: Path) -> list[Conversation]:
    """Return the well-formed conversations of four files in four formats."""
    roles: dict[str, Any] = {"human": "user", "gpt": "assistant"}
    found = []
    for row in rows_of(folder / "gsm8k.jsonl.gz"):
        found.append((Message("user", row["query"]), Message("assistant", row["response"])))
    for row in rows_of(folder / "gpteacher-code.jsonl.gz"):
        question = "\n".join(filter(None, (row["instruction"], row["input"])))
        found.append((Message("user", question), Message("assistant", row["output"])))
    for row in rows_of(folder / "gpteacher-roleplay.jsonl.gz"):
        turns = row["conversations"]
        found.append(tuple(Message(roles.get(turn["from"], turn["from"]), turn["value"]) for turn in turns))
    for row in rows_of(folder / "hh-harmless.jsonl.gz"):
        found.append(tuple(Message(turn["role"], turn["content"]) for turn in row["messages"]))
    well_formed = [messages for messages in found if all(one.content.strip() for one in messages)]
    return [Conversation(messages, row=row) for row, messages in enumerate(well_formed)]


def read_questions(folder: Path) -> list[Question]:
    """Return the benchmark items, question and right answer."""
    texts: dict[str, Iterator[str]] = {
        "hellaswag": (
            f"{row['ctx']} {row['endings'][int(row['label'])]}"
            for row in rows_of(folder / "hellaswag.validation.jsonl.gz")
        ),
        "piqa": (
            f"{row['goal']}\n{(row['sol1'], row['sol2'])[row['label']]}"
            for row in rows_of(folder / "piqa.validation.jsonl.gz")
        ),
        "arc_challenge": (
            f"{row['question']}\n{row['choices']['text'][row['choices']['label'].index(row['answerKey'])]}"
            for row in rows_of(folder / "arc_challenge.test.jsonl.gz")
        ),
        "lambada_openai": (row["text"] for row in rows_of(folder / "lambada_openai.test.jsonl.gz")),
    }
    for path in sorted((folder / "mmlu").glob("*.test.jsonl.gz")):
        texts[f"mmlu_{path.name.split('.')[0]}"] = (
            f"{row['question']}\n{row['choices'][row['answer']]}" for row in rows_of(path)
        )
    return [Question(task, doc_id, text) for task, those in texts.items() for doc_id, text in enumerate(those)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "shared" / "data")
