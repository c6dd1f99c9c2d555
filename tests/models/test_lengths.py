"""A default length gives way to what the model reads; one that the user set is refused."""

from typing import Any

import pytest
import transformers

from hftrain.config import Config, parse, to_yaml
from hftrain.models.fit import check_fit
from hftrain.models.load import load_model_config, load_tokenizer, without_weights
from hftrain.tasks.answering import AnswerConfig
from hftrain.tasks.chat.config import ChatModelConfig
from hftrain.tasks.classification import ClassificationConfig
from hftrain.tasks.tagging import TagConfig
from hftrain.text import train_tokenizer

pytestmark = pytest.mark.unit

SIZE = {"vocab_size": 320, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
KINDS = {"Bert": 0, "Roberta": 2, "Llama": 0}  # unused rows of the position table


def save(folder: Any, name: str, positions: int, read_by_tokenizer: int | None = None) -> str:
    config = getattr(transformers, f"{name}Config")(**SIZE, max_position_embeddings=positions, pad_token_id=1)
    config.save_pretrained(folder)
    tokenizer = train_tokenizer(["a b"], 300)
    tokenizer.model_max_length = read_by_tokenizer or int(1e30)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("config_class", [ClassificationConfig, TagConfig, AnswerConfig, ChatModelConfig])
def test_a_usual_length_gives_way(name, config_class, tmp_path, caplog):
    config = config_class(model_name_or_path=save(tmp_path, name, 62 + KINDS[name]), train_file=["a"])
    load_tokenizer(config)
    length = "max_length" if config_class is ChatModelConfig else "max_seq_length"
    assert getattr(config, length) == 62
    assert f"{length} is 62, not" in caplog.text
    if hasattr(config, "doc_stride"):
        usual = config_class.doc_stride / config_class.max_seq_length
        assert config.doc_stride == int(62 * usual)


def test_the_stride_follows_windows_of_ones_own(tmp_path):
    own = {"model_name_or_path": save(tmp_path, "Bert", 512), "train_file": ["a"], "max_seq_length": 96}
    config = AnswerConfig(**own)
    load_tokenizer(config)
    assert (config.max_seq_length, config.doc_stride) == (96, 32)
    config = AnswerConfig(**own, doc_stride=50)
    load_tokenizer(config)
    assert config.doc_stride == 50


def test_a_tokenizer_may_read_less_than_the_model(tmp_path):
    config = ClassificationConfig(
        model_name_or_path=save(tmp_path, "Bert", 512, read_by_tokenizer=40), train_file=["a"]
    )
    load_tokenizer(config)
    assert config.max_seq_length == 40


def test_a_length_that_is_set_is_not_touched(tmp_path):
    config = ClassificationConfig(model_name_or_path=save(tmp_path, "Bert", 62), max_seq_length=256, train_file=["a"])
    tokenizer = load_tokenizer(config)
    assert config.max_seq_length == 256
    model = without_weights(transformers.AutoModel, load_model_config(config))
    with pytest.raises(ValueError, match="max_seq_length=256, but the model has positions for only 62 tokens"):
        check_fit(model, tokenizer, max_seq_length=config.max_seq_length)


@pytest.mark.parametrize("given", [[], ["--max_seq_length", "256"]])
def test_a_usual_length_is_written_as_a_number(given, tmp_path):
    config: Config = parse(ClassificationConfig, ["--train_file", "a", *given])
    assert "max_seq_length: 256\n" in to_yaml(config)
    assert type(config.max_seq_length).__name__ == ("int" if given else "Usual")
