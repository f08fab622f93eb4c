"""A whole recipe on the tiny model: two sources, one benchmark of made-up questions, seconds on one core."""

import json
from pathlib import Path

import pytest

RECIPE = """\
name: tiny
seed: 3
base: {{model: {model}, verify: warn}}
evals:
  data: package
  pass_tokens: 256
  held_out: {{max_tokens: 500}}
  chat_prompts: 4
  max_new_tokens: 8
data:
  held_out: 0.2
  sources:
    - {{name: sums, path: sums.jsonl, licence: Apache-2.0}}
    - {{name: birds, path: birds.jsonl, take: 12}}
training:
  batch: {{sequences: 4}}
  epochs: 2
  micro_batch_tokens: 200
  learning_rate: 1e-3
  min_learning_rate: 1e-4
  warmup_steps: 2
  precision: float32
  checkpoints:
    every_steps: 3
"""


def write_tiny_recipe(folder: Path, model: Path) -> Path:
    """Write the recipe and its two sources; returns the recipe."""
    sums = [
        {"query": f"What is {n} plus {n}?", "response": f"It is {2 * n}, quite exactly.", "type": "made up"}
        for n in range(24)
    ]
    birds = [
        {
            "conversations": [
                {"from": "system", "value": "You know birds."},
                {"from": "human", "value": f"I saw {n} herons. Is that many?"},
                {
                    "from": "gpt",
                    "value": f"<think>\n{n} of them\n</think>\nFor a {'small' if n < 9 else 'large'} pond, yes.",
                },
            ]
        }
        for n in range(20)
    ]
    for name, rows in (("sums", sums), ("birds", birds)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE.format(model=model))
    return recipe


@pytest.fixture
def tiny_recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    return write_tiny_recipe(tmp_path, tiny_folder)
