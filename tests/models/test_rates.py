"""Learning rates by layer: as BEiT and MAE assign them, and in the optimizer."""

import pytest
import torch
import transformers

from hftrain.distributed import set_learning_rate
from hftrain.models import ImageTransformerConfig, TransformerForImageClassification
from hftrain.models.rates import layer_rates
from hftrain.train.optim import make_optimizer, parameter_groups

pytestmark = pytest.mark.unit

TINY = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3}


def vit() -> transformers.ViTForImageClassification:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**TINY, image_size=8, patch_size=4))


def test_each_layer_has_the_rate_of_the_next_times_the_decay():
    rates = layer_rates(vit(), 0.5, 1.0)
    assert len(rates) == len(list(vit().named_parameters()))
    for name, rate in rates.items():
        if "embeddings" in name:
            assert rate == 0.5**4, name
        elif ".layers." in name:
            assert rate == 0.5 ** (3 - int(name.split(".layers.")[1].split(".")[0])), name
        else:  # the last norm and the classifier
            assert rate == 1.0, name


def test_stages_are_counted_through():
    shape = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4
    )
    rates = layer_rates(transformers.SwinForImageClassification(shape), 0.5, 1.0)
    blocks = {name.split(".layernorm_before")[0]: rate for name, rate in rates.items() if "layernorm_before" in name}
    assert list(blocks.values()) == [0.5**3, 0.5**2, 0.5]


def test_the_backbone_of_classifiers_and_detectors():
    own = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_encoder_layers": 1}
    shape = ImageTransformerConfig(**own, image_size=8, patch_size=4)
    for model in (vit(), TransformerForImageClassification(shape)):
        rates = layer_rates(model, 1.0, 0.1)
        assert {rate for name, rate in rates.items() if name.startswith("classifier")} == {1.0}
        assert {rate for name, rate in rates.items() if not name.startswith("classifier")} == {0.1}
    resnet = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1],
        "layer_type": "basic", "out_features": ["stage2"]}  # fmt: skip
    shape = transformers.DetrConfig(backbone_config=resnet, d_model=8, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=8, decoder_ffn_dim=8, encoder_attention_heads=1, decoder_attention_heads=1)  # fmt: skip
    rates = layer_rates(transformers.DetrForObjectDetection(shape), 1.0, 0.1)
    assert set(rates.values()) == {0.1, 1.0}
    assert all((rate == 0.1) == (".backbone." in name) for name, rate in rates.items())


def test_rates_reach_the_optimizer_and_the_step():
    torch.manual_seed(0)
    model = vit()
    rates = layer_rates(model, 0.5, 1.0)
    optimizer = make_optimizer(model, "adamw_torch", learning_rate=1e-3, weight_decay=0.1, rates=rates)
    set_learning_rate(optimizer, 1e-3)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {named[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert seen == {name: pytest.approx(1e-3 * rate) for name, rate in rates.items()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():  # the first step of Adam is the learning rate, plus the decay
        decay = 0.1 * 1e-3 * rates[name] * before[name] if parameter.ndim >= 2 else 0
        moved = before[name] - parameter.detach() - decay
        assert torch.allclose(moved, torch.full_like(moved, 1e-3 * rates[name]), rtol=1e-3, atol=1e-7), name


def test_one_rate_leaves_the_groups_as_they_were():
    assert layer_rates(vit(), 1.0, 1.0) == {}
    assert [set(group) for group in parameter_groups(vit(), 0.1, rates={})] == [{"params", "weight_decay"}] * 2
    with pytest.raises(ValueError, match="optim=muon takes one learning rate"):
        make_optimizer(vit(), "muon", learning_rate=1e-3, rates=layer_rates(vit(), 0.5, 1.0))
    with pytest.raises(ValueError, match="has no list of layers"):
        layer_rates(torch.nn.Linear(2, 2), 0.5, 1.0)
    with pytest.raises(ValueError, match="has no part that is its backbone"):
        layer_rates(torch.nn.Linear(2, 2), 1.0, 0.5)
