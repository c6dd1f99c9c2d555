"""Adapters of every kind: what trains, what is saved, and that it gives the same model again."""

import copy

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hftrain.config import ConfigError, RecipeConfig
from hftrain.models import load
from hftrain.models.adapters import load_adapted
from hftrain.models.freezing import narrow_frozen
from hftrain.train.flops import count_parameters

IDS = torch.tensor([[1, 5, 9, 3, 7, 40, 2, 41]])
SIZE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=request.param, bos_token_id=1)).save_pretrained(folder)
    return str(folder)


def adapted(base, *, new_tokens=(), grow=0, **settings):
    config = RecipeConfig(train_file="-", model_name_or_path=base, use_peft=True, lora_r=4, lora_alpha=8, **settings)
    model = load.load_model(config, AutoModelForCausalLM)
    if grow:
        model.resize_token_embeddings(40 + grow)
    return load.add_adapters(model, config, "CAUSAL_LM", new_tokens=new_tokens)


def trained(model, ids=IDS[:, :5], steps=3):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model, ids=IDS[:, :5]):
    with torch.no_grad():
        return model(input_ids=ids).logits


VARIANTS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "named": {"lora_target_modules": ["q_proj", "down_proj"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_gives_the_same_model_on_the_original_base(base, variant, tmp_path):
    original = logits(
        load.load_model(RecipeConfig(train_file="-", model_name_or_path=base), AutoModelForCausalLM).eval()
    )
    model = adapted(base, **VARIANTS[variant])
    assert {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad} >= {"down_proj", "q_proj"}
    torch.testing.assert_close(logits(model.eval()), original)  # nothing is added before training
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = logits(trained(model.train()))
    assert (expected - original).abs().max() > 0.01
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert model.peft_config["default"].r == 4  # as before it was saved
    torch.testing.assert_close(logits(load_adapted(tmp_path, AutoModelForCausalLM).eval()), expected)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in frozen)


@pytest.mark.parametrize("variant", [*VARIANTS, "new tokens"])
def test_frozen_weights_in_bf16_change_nothing_under_autocast(base, variant):
    more = {"new_tokens": [40, 41], "grow": 2} if variant == "new tokens" else VARIANTS[variant]
    results = []
    for narrow in (False, True):
        torch.manual_seed(0)
        model = adapted(base, **more)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        bytes_before = sum(p.nbytes for p in frozen)
        if narrow:
            narrow_frozen(model, torch.bfloat16)
            share = sum(p.nbytes for p in frozen) / bytes_before
            assert share == 1 if variant == "dora" else 0.5 <= share < 0.7  # embeddings and norms stay
        with torch.autocast("cpu", torch.bfloat16):
            output = model(input_ids=IDS[:, :5], labels=IDS[:, :5])
        output.loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([output.logits, output.loss, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_pissa_begins_with_the_first_singular_directions(base):
    model = adapted(base, init_lora_weights="pissa")
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = load_file(f"{base}/model.safetensors")[name]
    left, values, right = torch.linalg.svd(weight)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    principal = left[:, :4] * values[:4] @ right[:4]
    torch.testing.assert_close(layer.get_delta_weight("default"), principal, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.base_layer.weight, weight - principal, rtol=1e-4, atol=1e-5)


def test_rslora_divides_by_the_root_of_the_rank(base):
    scale = {v: adapted(base, use_rslora=v).get_base_model().model.layers[0].mlp.up_proj.scaling for v in (False, True)}
    assert scale == {False: {"default": 2.0}, True: {"default": 4.0}}


def test_new_tokens_train_and_come_back(base, tmp_path):
    model = adapted(base, new_tokens=[40, 41], grow=2)
    tied = model.config.tie_word_embeddings
    before = copy.deepcopy(model.get_input_embeddings()).weight if tied else None
    expected = logits(trained(model, IDS), IDS)
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    saved = {name: value.shape for name, value in load_file(tmp_path / "adapter_model.safetensors").items()}
    embeddings = {name: shape for name, shape in saved.items() if "lora" not in name}
    assert set(embeddings.values()) == {(2, 64)} and len(embeddings) == (1 if tied else 2)  # the new rows alone
    tiny = load.load_model(RecipeConfig(train_file="-", model_name_or_path=base), AutoModelForCausalLM)
    tiny.resize_token_embeddings(42)
    torch.testing.assert_close(logits(peft.PeftModel.from_pretrained(tiny, tmp_path).eval(), IDS), expected)
    if tied:
        assert torch.equal(model.get_input_embeddings().weight[:40], before[:40])


def test_what_cannot_be(base):
    with pytest.raises(ConfigError, match="PiSSA changes the weights when it starts: set only one"):
        RecipeConfig(train_file="-", model_name_or_path=base, use_peft=True, init_lora_weights="pissa", use_dora=True)
    with pytest.raises(
        ValueError, match=r"lora_target_modules \['query'\] match no module; the linear layers are down"
    ):
        adapted(base, lora_target_modules=["query"])


def test_what_pieces_of_weights_do_not_allow(base):
    config = RecipeConfig(train_file="-", model_name_or_path=base, use_peft=True)
    model = load.load_model(config, AutoModelForCausalLM)
    model.get_input_embeddings().weight.ds_id = 0  # what ZeRO-3 marks its pieces with
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="new tokens under ZeRO-3 only on CUDA: use ZeRO-2, or a chat_template"):
            load.add_adapters(model, config, "CAUSAL_LM", new_tokens=[39])
    config.init_lora_weights = "pissa"
    with pytest.raises(ValueError, match="pissa needs unsharded weights: use ZeRO-2"):
        load.add_adapters(model, config, "CAUSAL_LM")


def test_four_bits_train_on_a_cpu(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    model = adapted(base, load_in_4bit=True)
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Linear4bit" in kinds
    assert count_parameters(model) == count_parameters(adapted(base))  # two are packed into a byte
    first = float(model(input_ids=IDS[:, :5], labels=IDS[:, :5]).loss)
    expected = logits(trained(model, steps=20))
    assert float(model(input_ids=IDS[:, :5], labels=IDS[:, :5]).loss) < 0.9 * first
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    config = RecipeConfig(train_file="-", model_name_or_path=base, use_peft=True, load_in_4bit=True)
    again = peft.PeftModel.from_pretrained(load.load_model(config, AutoModelForCausalLM), tmp_path).eval()
    torch.testing.assert_close(logits(again), expected)


def test_four_bits_have_the_same_gradients_after_an_evaluation(base):
    pytest.importorskip("bitsandbytes")
    model, ids = adapted(base, load_in_4bit=True).train(), IDS[:, :5]
    trained(model, steps=1)

    def gradients():
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}

    expected = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    found = gradients()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_four_bits_need_a_package(base, monkeypatch):
    monkeypatch.setattr("hftrain.models.adapters.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="load_in_4bit needs the package bitsandbytes: pip install bitsandbytes"):
        adapted(base, load_in_4bit=True)
