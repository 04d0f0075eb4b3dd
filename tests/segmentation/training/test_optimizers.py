"""Optimizers, schedules, averaged weights, the auxiliary head and the early end: against other code, and exactly on."""

import math

import numpy as np
import pytest
import tensorflow as tf
from helpers.trainings import make, make_data

from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from segmentation.data.transforms import Augmentation
from segmentation.training.optimizers import MOMENTUM, SLOTS, SQUARES, apply_gradient
from segmentation.training.recipe import ADAMW, FOLDER, SGD, STATE, Recipe
from segmentation.training.state import AVERAGE

STEPS = 6
EVERYTHING = {
    "steps": STEPS, "optimizer": ADAMW, "learning_rate": 0.01, "weight_decay": 0.02, "schedule": "cosine", "warmup": 2,
    "loss": "ce+dice", "ema": 0.9, "auxiliary": 0.4, "patience": 9, "clip": 1.0, "validate_every": 2, "save_every": 2,
    "augmentation": Augmentation((33, 33), (0.8, 1.25), jitter=0.2, distortion=0.5),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_optimizers_equal_pytorchs(optimizer):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    start, gradients = generator.standard_normal((4, 3)).astype("f"), generator.standard_normal((STEPS, 4, 3)).astype("f")
    recipe = Recipe(STEPS, optimizer=optimizer, momentum=0.8, weight_decay=0.03)
    variable, name = tf.Variable(start), "conv1/weights"
    slots = {slot + name: tf.Variable(tf.zeros_like(start)) for slot in SLOTS[optimizer]}
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    other = {
        SGD: lambda: torch.optim.SGD([theirs], lr=0.1, momentum=0.8, weight_decay=0.03),
        ADAMW: lambda: torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.999), weight_decay=0.03),
    }[optimizer]()
    for step, gradient in enumerate(gradients):
        penalty = recipe.weight_decay * variable if optimizer == SGD else 0.0  # a step adds it before it clips
        apply_gradient(recipe, name, variable, gradient + penalty, slots, tf.constant(0.1), tf.constant(step))
        theirs.grad = torch.from_numpy(gradient)
        other.step()
        np.testing.assert_allclose(variable.numpy(), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_biases_do_not_decay(optimizer):
    recipe = Recipe(STEPS, optimizer=optimizer, weight_decay=0.5)
    variable, name = tf.Variable([2.0]), "logits/biases"
    slots = {slot + name: tf.Variable([0.0]) for slot in SLOTS[optimizer]}
    apply_gradient(recipe, name, variable, tf.zeros([1]), slots, tf.constant(0.1), tf.constant(0))
    assert variable.numpy() == [2.0]


def test_the_cosine_schedule_equals_keras():
    keras = tf.keras.optimizers.schedules.CosineDecay(0.3, 20, warmup_target=None)
    recipe = Recipe(20, schedule="cosine", learning_rate=0.3)
    assert [recipe.rate(step) for step in range(20)] == pytest.approx([float(keras(step)) for step in range(20)], rel=1e-5)


@pytest.fixture(scope="module")
def training_data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def everything(training_data, tmp_path_factory):
    """Six steps with every option on."""
    one = make(training_data, tmp_path_factory.mktemp("everything"), validation="val", **EVERYTHING)
    one.run()
    return one


def test_a_run_with_every_option_resumes_to_the_bit(everything, training_data, tmp_path):
    one = make(training_data, tmp_path, validation="val", **EVERYTHING)
    calls = iter([False, False, True])
    assert one.run(stop=lambda: next(calls)).stopped
    make(training_data, tmp_path, validation="val", **EVERYTHING).run()
    for file in (f"{FOLDER}/{STATE}", "weights.safetensors", "last/weights.safetensors"):
        assert (tmp_path / file).read_bytes() == (everything.out / file).read_bytes(), file


def test_the_state_holds_what_a_resumed_run_needs(everything):
    arrays = safetensors.read(everything.out / FOLDER / STATE)
    own = [name for name in arrays if name.startswith("auxiliary/")]
    assert len(own) == 5  # two kernels, a scale and a shift, a bias
    for name in (*everything.model.trainable, *own):
        assert arrays[MOMENTUM + name].any(), name
        assert (arrays[SQUARES + name] >= 0).all()
    assert {AVERAGE + name for name in everything.initial} == {name for name in arrays if name.startswith(AVERAGE)}


def test_what_is_saved_are_the_averaged_weights(training_data, tmp_path):
    recipe = {"steps": 3, "ema": 0.5, "learning_rate": 0.05, "save_every": 1}
    one, histories = make(training_data, tmp_path, **recipe), []

    def remember():
        histories.append({name: value.copy() for name, value in one.model.weights.items()})
        return False

    one.run(stop=remember)
    saved = safetensors.read(tmp_path / "weights.safetensors")
    averages = one.initial
    for step, weights in enumerate(histories):
        decay = min(0.5, (1 + step) / (10 + step))
        averages = {name: decay * averages[name] + (1 - decay) * value for name, value in weights.items()}
    for name, value in averages.items():
        np.testing.assert_allclose(saved[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert not np.allclose(saved["logits/semantic/weights"], one.model.weights["logits/semantic/weights"], rtol=1e-3)


def test_an_auxiliary_head_changes_the_backbone_and_is_not_saved(training_data, tmp_path):
    runs = {}
    for weight in (0.0, 0.4):
        one = make(training_data, tmp_path / str(weight), steps=2, auxiliary=weight, weight_decay=0.0)
        one.run()
        runs[weight] = safetensors.read(tmp_path / str(weight) / "weights.safetensors")
    assert runs[0.0].keys() == runs[0.4].keys()
    differing = {name for name in runs[0.0] if not np.array_equal(runs[0.0][name], runs[0.4][name])}
    last = one.model.backbone.plan.blocks[-1].scope
    assert any(not name.startswith(last) for name in differing)


def test_patience_ends_a_training_once_and_for_all(training_data, tmp_path):
    recipe = {
        "steps": 30,
        "learning_rate": 1e-9,
        "validate_every": 2,
        "save_every": 30,
        "patience": 2,
        "freeze_batch_norm": True,
    }
    lines = []
    outcome = make(training_data, tmp_path, validation="val", **recipe).run(say=lines.append)
    assert (outcome.step, outcome.best_step, outcome.stopped) == (6, 2, False)
    assert "2 validations without a better model: training ends at step 6 of 30" in lines
    again = []
    assert make(training_data, tmp_path, validation="val", **recipe).run(say=again.append) == outcome
    assert again == ["resuming at step 6 of 30"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer must be 'sgd' or 'adamw'"),
        ({"schedule": "step"}, "schedule must be 'poly' or 'cosine'"),
        ({"loss": "iou"}, "loss must be 'ce', 'focal', 'dice', 'lovasz' or 'ce[+]dice'"),
        ({"ema": 1.0}, "ema must be above 0 and below 1"),
        ({"auxiliary": math.nan}, "auxiliary must be at least 0"),
        ({"patience": 0}, "patience must be an integer above 0"),
        ({"loss": "dice", "class_weights": (1.0, 1.0, 2.0)}, "class_weights goes with a loss over pixels"),
        ({"loss": "focal", "hardest": 0.5}, "hardest goes with a loss over pixels"),
        ({"augmentation": Augmentation((33, 33), distortion=2.0)}, "distortion must be from 0 to 1"),
    ],
)
def test_invalid_options_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe(**{"steps": 3, **changes}).check(3)


def test_patience_needs_validation_images(training_data, tmp_path):
    with pytest.raises(InputError, match="no validation images"):
        make(training_data, tmp_path, patience=1)


def test_a_run_of_days_is_refused_before_anything_is_lost(training_data, tmp_path, monkeypatch):
    clock = iter(range(0, 10**9, 10**5))
    monkeypatch.setattr("segmentation.training.loop.time.perf_counter", lambda: next(clock))
    lines = []
    with pytest.raises(InputError, match=r"take about 37\.0 days.*--yes begins"):
        make(training_data, tmp_path, steps=100).run(say=lines.append, unbounded=False)
    clock = iter(range(0, 10**9, 10**5))
    make(training_data, tmp_path, steps=100).run(say=lines.append, stop=lambda: len(lines) > 0)
    assert lines[-1].startswith("33333.33 s a step: about 37.0 days")
