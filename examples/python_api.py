"""What the commands do, from Python. Runs as it stands, in about ten minutes on two cores.

.venv/bin/python examples/python_api.py
"""

from pathlib import Path

from genesis_sft import load_recipe, plan, run
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.evals.record import EvalRecord
from genesis_sft.report.compare import compare
from genesis_sft.tokens.chatml import ChatMLEncoder

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Plan, run, compare, encode."""
    # genesis-sft plan / run
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", ["seed=2"])
    run_dir = Path("runs") / "python-api"
    for stage in plan(recipe, run_dir):
        print(f"{stage.name}: {'done' if stage.done else stage.why}")
    run(recipe, run_dir)

    # genesis-sft compare
    comparison = compare(EvalRecord.open(run_dir / "before"), EvalRecord.open(run_dir / "after"))
    for task in comparison.tasks:
        print(f"{task.task}: {task.before:.3f} -> {task.after:.3f}")

    # genesis-sft data show: token ids and what is trained, out of one function
    tuned = ModelDir.open(run_dir / "export" / "model")
    encoder = ChatMLEncoder(tuned.load_tokenizer())
    conversation = Conversation((Message("user", "7 times 8?"), Message("assistant", "56", reasoning="7 * 8 = 56")))
    encoded = encoder.encode(conversation)
    for start, stop in encoded.trained:
        print(repr(encoder.decode(encoded.input_ids[start:stop], show_special=True)))


if __name__ == "__main__":
    main()
