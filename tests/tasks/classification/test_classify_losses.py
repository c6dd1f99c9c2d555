"""Losses of a classification and the weights of its classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import hftrain.labels
from hftrain.config import ConfigError
from hftrain.labels.losses import losses
from tests.tasks.classification.test_classify import NUMBER, SEVERAL, SINGLE, configured, prepare

# ---- losses


def test_losses_are_those_of_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 0])
    several = torch.randint(0, 2, (7, 4)).float()
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    found = losses(logits, labels, SINGLE, label_smoothing=0.1)
    assert_close(found.mean(), F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert_close(
        losses(logits, labels, SINGLE, weights=weights), F.cross_entropy(logits, labels, weights, reduction="none")
    )
    found = losses(logits, several, SEVERAL, weights=weights)
    assert_close(found.mean(), F.binary_cross_entropy_with_logits(logits, several, pos_weight=weights))
    assert_close(losses(logits[:, :1], logits[:, 1], NUMBER).mean(), F.mse_loss(logits[:, 0], logits[:, 1]))
    p = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
    assert_close(losses(logits, labels, SINGLE, focal_gamma=2), -((1 - p) ** 2) * p.log())
    p = torch.where(several == 1, logits.sigmoid(), 1 - logits.sigmoid())
    assert_close(losses(logits, several, SEVERAL, focal_gamma=2), (-((1 - p) ** 2) * p.log()).mean(-1))


def test_losses_are_in_fp32_and_have_slopes_everywhere():
    logits, labels = (
        torch.tensor([[100.0, 0.0], [-100.0, 0.0], [0.3, 0.2]], dtype=torch.bfloat16),
        torch.tensor([0, 0, 1]),
    )
    assert_close(losses(logits, labels, SINGLE), losses(logits.float(), labels, SINGLE), rtol=0, atol=0)
    for gamma in (0.5, 2.0):
        each = logits.float().requires_grad_()
        losses(each, labels, SINGLE, focal_gamma=gamma).sum().backward()
        assert each.grad.isfinite().all()


def test_weights_have_a_mean_of_one(tmp_path):
    rows = [{"text": f"text {n}", "label": "rare" if n % 5 == 0 else "usual"} for n in range(100)]
    config = configured(tmp_path, rows, balance_classes=True)
    examples, _, names = prepare(config)
    weights = hftrain.labels.weights(examples["train"], names, config)
    labels = np.array(examples["train"].column("labels"))
    mean = weights[torch.from_numpy(labels)].mean().item()
    assert mean == pytest.approx(1) and weights[0] / weights[1] == pytest.approx(
        (labels == 1).sum() / (labels == 0).sum()
    )
    given = configured(tmp_path, rows, class_weights={"rare": 3})
    found = hftrain.labels.weights(examples["train"], names, given)
    assert (found[0] / found[1]).item() == pytest.approx(3)
    with pytest.raises(ValueError, match="class_weights: the set of classes has no 'rar'; did you mean 'rare'"):
        hftrain.labels.weights(examples["train"], names, configured(tmp_path, rows, class_weights={"rar": 3}))


def test_settings_that_contradict_each_other(tmp_path):
    for settings, message in (
        ({"metrics": ["mse"]}, "metric 'mse' does not fit single_label_classification"),
        ({"balance_classes": True, "class_weights": {"a": 2}}, "contradict each other"),
        ({"class_weights": {"a": -1}}, "a has the weight -1"),
        ({"focal_gamma": 2.0, "label_smoothing_factor": 0.1}, "have opposite effects"),
        ({"problem_type": NUMBER, "focal_gamma": 2.0}, "focal_gamma needs classes"),
        ({"metric_for_best_model": "f1"}, "only loss, accuracy, f1_macro are evaluated"),
    ):
        with pytest.raises(ConfigError, match=message):
            configured(tmp_path, **settings)
