"""Fine-tuning: rates by hand, Eq. 1's two forms, repeatable to the bit, interrupted and gone on with."""

import jobs
import pandas as pd
import pytest
import torch
from torch import nn

from wsol_utils import checkpoints, datasets, method, models, pooling, training
from wsol_utils.data.loader import Loader
from wsol_utils.network.recipe import Recipe, rate_factor
from wsol_utils.network.training import fit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eight noisy 36×36 images of two classes."""
    return jobs.photographs(tmp_path_factory.mktemp("run") / "photographs", 8)


def loader(root, transform=None, seed=0, workers=0):
    table = pd.DataFrame({"image_id": [str(i) for i in range(8)], "path": [f"{i}.png" for i in range(8)]})
    table["label"], table["boxes"] = [i % 2 for i in range(8)], [[(0.0, 0.0, 36.0, 18.0)] for _ in range(8)]
    transform = transform or datasets.train_transform(36, 32)
    return Loader(datasets.ImageDataset(table, root, transform, seed=seed), workers=workers)


STILL = datasets.test_transform(8)  # images of 8×8, not augmented


def small(pool="gap", seed=0):
    torch.manual_seed(seed)
    return models.build("small_vgg", 2, pool)


def shallow(pool, seed=0):
    """One convolution, in float64: small enough to follow by hand."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    return models.Localizer(body, pooling.build(pool), nn.Linear(6, 2)).double()


def recipe(**values):
    usual = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "head_multiplier": 1.0, "weight_decay": 1e-2}
    return Recipe(**usual | {"optimizer": "adamw"} | values)


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The recipe.


def test_unknown_words():
    with pytest.raises(ValueError, match="unknown optimizer 'adam'; choose one of sgd, adamw"):
        recipe(optimizer="adam")
    with pytest.raises(ValueError, match="unknown schedule 'cosine'; choose one of constant, onecycle, steps"):
        recipe(schedule="cosine")


def test_rates():
    for progress in (0, 0.3, 0.99):
        assert rate_factor("constant", progress) == 1
    assert rate_factor("onecycle", 0) == pytest.approx(1 / 25)
    assert rate_factor("onecycle", 0.15) == pytest.approx((1 / 25 + 1) / 2)  # half way up, linear
    assert rate_factor("onecycle", 0.3) == pytest.approx(1)
    assert rate_factor("onecycle", 0.65) == pytest.approx(0.5)  # half way down, cosine
    assert rate_factor("onecycle", 1) == pytest.approx(0, abs=1e-12)
    assert [rate_factor("steps", at / 200) for at in (0, 59, 60, 120, 180, 199)] == pytest.approx(
        [1, 1, 0.1, 0.01, 0.001, 0.001]
    )


def test_the_schedule_runs_through_all_steps(photographs, tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    values = recipe(epochs=3, lr=0.1, head_multiplier=7.0, schedule="onecycle")
    fit(small(), loader(photographs), values, tmp_path / "a.safetensors")
    expected = [0.1 * rate_factor("onecycle", i / 6) for i in range(6)]  # 3 epochs of 2 batches
    assert [body for body, _ in seen] == pytest.approx(expected)
    assert [head for _, head in seen] == pytest.approx([7 * rate for rate in expected])


@pytest.mark.parametrize("multiplier", [1.0, 7.0])
def test_one_step_by_hand(photographs, tmp_path, multiplier):
    data = loader(photographs, transform=STILL)
    model = shallow("wgap_sum")
    before = state(model)
    images, labels, _ = datasets.collate([data.dataset[i] for i in range(8)])
    nn.functional.cross_entropy(model(images.double()).logits, labels).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    lr, decay = 0.05, 0.3
    once = recipe(epochs=1, batch_size=8, lr=lr, weight_decay=decay, head_multiplier=multiplier, optimizer="sgd")
    fit(model, data, once, tmp_path / "a.safetensors")
    for name, after in model.state_dict().items():
        k = multiplier if name.startswith("head.") else 1
        gradient = gradients[name] + decay / k * before[name]
        by_hand = before[name] - lr * k * (1 + 0.9) * gradient  # Nesterov's first step: g + 0.9 g
        torch.testing.assert_close(after, by_hand, rtol=1e-10, atol=1e-12)


# Eq. 1 as printed and its sum form: what the multipliers of `experiments.PROFILES` rest on.


def both_forms(root, folder, optimizer, printed_multiplier, lr, multiplier=10.0):
    """Train `wgap` and `wgap_sum` from the same logits; the two states, the printed head divided by W·H."""
    data, area = loader(root, transform=STILL), 64.0
    trained = []
    for pool, rate, scale in (("wgap_sum", multiplier, 1.0), ("wgap", printed_multiplier, area)):
        model = shallow(pool)
        with torch.no_grad():
            model.head.weight.mul_(scale)
        model.head.bias.requires_grad_(False)  # it sees no pooled vector: its rate is not the weights'
        values = recipe(epochs=4, lr=lr, head_multiplier=rate, weight_decay=0.01, optimizer=optimizer)
        history = fit(model, data, values, folder / f"{pool}{printed_multiplier}.safetensors")
        with torch.no_grad():
            model.head.weight.div_(scale)
        trained.append((state(model), [epoch["loss"] for epoch in history]))
    assert not torch.allclose(trained[0][0]["backbone.0.weight"], state(shallow("gap"))["backbone.0.weight"], rtol=0.01)
    return trained


@pytest.mark.parametrize("optimizer, power, lr, near", [("sgd", 2, 0.01, 1e-5), ("adamw", 1, 0.003, 1e-4)])
def test_both_forms_learn_alike(photographs, tmp_path, optimizer, power, lr, near):
    """SGD at the area's square, AdamW at the area: up to its eps, beside a gradient that is 64 times smaller."""
    (a, losses), (b, others) = both_forms(photographs, tmp_path, optimizer, 10.0 * 64**power, lr)
    assert others == pytest.approx(losses, rel=near)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=10 * near, atol=near)
    (a, _), (b, _) = both_forms(photographs, tmp_path, optimizer, 10.0 * 64 ** (power - 1), lr)
    assert not torch.allclose(a["head.weight"], b["head.weight"], rtol=0.01)


# Runs.


@pytest.mark.parametrize("pool, multiplier", [("gap", 1.0), ("wgap", 16.0)])
def test_learns_eight_images_by_heart(photographs, tmp_path, pool, multiplier):
    values, model = recipe(epochs=15, batch_size=8, lr=5e-3, head_multiplier=multiplier), small(pool).eval()
    history = fit(model, loader(photographs), values, tmp_path / "a.safetensors")
    assert [epoch["epoch"] for epoch in history] == list(range(1, 16))
    assert history[0]["loss"] > 0.3  # ln 2 is chance
    assert history[-1]["loss"] < 0.05 and history[-1]["accuracy"] == 100
    assert all(epoch["seconds"] > 0 for epoch in history)
    norm = model.backbone[1]  # its statistics are learned whatever the mode before
    assert norm.num_batches_tracked == 15 and norm.running_mean.abs().max() > 0


def test_history_is_the_mean_over_the_epochs_images(photographs, tmp_path):
    data = loader(photographs, transform=STILL)
    model = shallow("gap")
    still = recipe(epochs=1, batch_size=4, lr=0.0, optimizer="sgd")
    (epoch,) = fit(model, data, still, tmp_path / "a.safetensors")
    images, labels, _ = datasets.collate([data.dataset[i] for i in range(8)])
    logits = model(images.double()).logits
    assert epoch["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert epoch["accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())


def test_the_same_seed_gives_the_same_bits(photographs, tmp_path):
    """Whatever the state of torch's own generator, and in a process beside this one."""
    trained = {}
    for name, order, crops, workers in (
        ("a", 0, 0, 0), ("b", 0, 0, 1), ("other order", 1, 0, 0), ("other crops", 0, 1, 0)
    ):  # fmt: skip
        model, data = small(), loader(photographs, seed=crops, workers=workers)
        torch.rand(3 * len(trained))
        fit(model, data, recipe(), tmp_path / f"{name}.safetensors", seed=order)
        trained[name] = state(model)
    assert equal(trained["a"], trained["b"])
    assert not equal(trained["a"], trained["other order"])
    assert not equal(trained["a"], trained["other crops"])
    assert equal(trained["a"], state(models.load_into(small(seed=9), tmp_path / "b.safetensors")))


@pytest.mark.parametrize("augmented", [True, False])
def test_every_epoch_has_its_own_order_and_augmentation(photographs, tmp_path, monkeypatch, augmented):
    """And of eight images in batches of three, two are left out."""
    seen = []
    batches = Loader.batches

    def spy(self, indices):
        for batch in batches(self, indices):
            seen.append(batch[0].mean(dim=(1, 2, 3)))
            yield batch

    monkeypatch.setattr(Loader, "batches", spy)
    transform = datasets.train_transform(36, 32) if augmented else datasets.test_transform(32)
    fit(small(), loader(photographs, transform=transform), recipe(), tmp_path / "a.safetensors")
    epochs = [torch.cat(seen[i : i + 2]) for i in (0, 2)]
    assert not torch.equal(*epochs)  # another order
    assert torch.equal(*(epoch.sort().values for epoch in epochs)) == (not augmented)  # other crops too
    seen.clear()
    fit(small(), loader(photographs), recipe(batch_size=3, epochs=1), tmp_path / "b.safetensors")
    assert [len(batch) for batch in seen] == [3, 3]


class Stop(Exception):
    pass


def forbidden(*_):
    raise Stop


def dropping(seed=0):
    """No layer of ours draws numbers in training; this one does, and a run that goes on draws the ones to come."""
    model = small(seed=seed)
    model.pool = nn.Sequential(model.pool, nn.Dropout(0.5))
    torch.manual_seed(3)
    return model


@pytest.mark.parametrize(
    "optimizer, after, keep_every, left",
    [("adamw", 2, 0, 4), ("sgd", 3, 0, 4), ("adamw", 3, 1, 3), ("sgd", 5, 2, 2), ("adamw", 1, 2, 6)],
    ids=["between epochs", "within one", "within one, kept there", "in the last", "before anything was kept"],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    photographs, tmp_path, monkeypatch, optimizer, after, keep_every, left
):
    """Three epochs of two batches of four images."""
    values = recipe(epochs=3, lr=0.01, optimizer=optimizer, schedule="onecycle")
    whole = dropping()
    expected = fit(whole, loader(photographs), values, tmp_path / "whole.safetensors")
    steps = 0
    cross_entropy = nn.functional.cross_entropy

    def pull_the_plug(logits, labels):
        nonlocal steps
        steps += 1
        if steps > after:
            raise KeyboardInterrupt
        return cross_entropy(logits, labels)

    path = tmp_path / "cut.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "cross_entropy", pull_the_plug)
        with pytest.raises(KeyboardInterrupt):
            fit(dropping(), loader(photographs), values, path, keep_every=keep_every)
    assert not path.exists() and path.with_suffix(".resume.pt").is_file() == (left < 6)

    steps, after = 0, 100
    monkeypatch.setattr(nn.functional, "cross_entropy", pull_the_plug)
    again = dropping(seed=5) if left < 6 else dropping()  # a new process starts from other weights than it left
    history = fit(again, loader(photographs), values, path, keep_every=keep_every)
    assert steps == left  # what was kept is not done again
    assert equal(state(again), state(whole))
    timeless = [[{key: e[key] for key in ("epoch", "loss", "accuracy")} for e in some] for some in (history, expected)]
    assert timeless[0] == timeless[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.safetensors", "whole.safetensors"]


CHANGES = [{"recipe": recipe(lr=2e-3)}, {"fingerprint": "other data"}, {"seed": 1}]


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=lambda one: next(iter(one), "nothing"))
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_run_starts_anew(photographs, tmp_path, monkeypatch, change, finished):
    """One that is finished and unchanged is not trained again."""
    path, epochs, real = tmp_path / "a.safetensors", [], training._Run._epoch

    def run(model, stop=9, path=path, **change):
        def counted(run, network):
            if len(run.history) == stop:
                raise Stop
            epochs.append(len(run.history))
            return real(run, network)

        monkeypatch.setattr(training._Run, "_epoch", counted)
        values = {"recipe": recipe(), "fingerprint": "data", "seed": 0} | change
        history = fit(model, loader(photographs), values.pop("recipe"), path, **values)
        return [(epoch["loss"], epoch["accuracy"]) for epoch in history]

    if finished:
        before = run(small())
    else:
        with pytest.raises(Stop):
            run(small(), stop=1)
    epochs.clear()
    model, anew = small(), small()
    history = run(model, **change)
    assert epochs == ([0, 1] if change else [] if finished else [1])
    assert change or not finished or history == before
    run(anew, path=tmp_path / "anew.safetensors", **change)
    assert equal(state(model), state(anew))


@pytest.mark.fault("a network's file, or the checkpoint on the way to it, is cut off", "it is named and made again")
@pytest.mark.parametrize("name", ["a.safetensors", "a.resume.pt"])
def test_a_broken_checkpoint_is_named_and_made_again(photographs, tmp_path, monkeypatch, capsys, name):
    path, anew = tmp_path / "a.safetensors", small()
    fit(anew, loader(photographs), recipe(), path)
    expected = path.read_bytes()
    if name == "a.resume.pt":
        path.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(models, "save", forbidden)
            with pytest.raises(Stop):
                fit(small(), loader(photographs), recipe(), path)
    content = (tmp_path / name).read_bytes()
    for share in (0, 0.5, 0.999):
        path.unlink(missing_ok=True)
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        model = small()
        fit(model, loader(photographs), recipe(), path)
        assert capsys.readouterr().out == f"{name} is cut off: it is made again\n"
        assert equal(state(model), state(anew)) and path.read_bytes() == expected


def test_a_checkpoint_that_is_damaged(tmp_path):
    """Its bytes are whole, and something else is in them."""
    model, path = small(), tmp_path / "a.resume.pt"
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints.keep(path, "a run", shallow("gap"), optimizer, {})
    assert checkpoints.go_on(path, "another run", model, optimizer) is None
    with pytest.raises(ValueError, match=r"a\.resume\.pt is damaged \(.*: delete it and run again"):
        checkpoints.go_on(path, "a run", model, optimizer)


@pytest.mark.fault("the loss overflows", "training stops and names the batch and its images; no network is written")
def test_a_loss_that_is_not_finite(photographs, tmp_path):
    message = r"the loss is (nan|inf) in epoch \d, batch \d \(images \d, \d, \d, \d\): lower lr or head_multiplier"
    with pytest.raises(FloatingPointError, match=message):
        fit(small(), loader(photographs), recipe(lr=1e30, optimizer="sgd", epochs=4), tmp_path / "a.safetensors")
    with pytest.raises(FloatingPointError, match="the weights are not finite after the last batch: lower lr"):
        once = recipe(lr=3e38, weight_decay=1e3, optimizer="sgd", epochs=1, batch_size=8)
        fit(small(), loader(photographs), once, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("late", [False, True], ids=["seen at once", "seen later, as on a GPU"])
def test_the_batch_whose_loss_is_not_finite_is_the_one_named(photographs, tmp_path, monkeypatch, late):
    steps, real, init = [], nn.functional.cross_entropy, training._Run.__init__

    def third(logits, labels):
        steps.append(labels)
        return real(logits, labels) * (torch.nan if len(steps) == 3 else 1)

    def as_on_a_gpu(run, *args):
        init(run, *args)
        run.on_gpu = late

    monkeypatch.setattr(nn.functional, "cross_entropy", third)
    monkeypatch.setattr(training._Run, "__init__", as_on_a_gpu)
    order = method.Method().order([0] * 8, seed=0, epoch=1, batch_size=4, processes=1)
    batch = ", ".join(map(str, order[:4]))  # 4 images a step, 2 steps an epoch
    with pytest.raises(FloatingPointError, match=rf"the loss is nan in epoch 2, batch 1 \(images {batch}\): lower"):
        fit(small(), loader(photographs), recipe(), tmp_path / "a.safetensors")
    assert len(steps) == (4 if late else 3)


def test_a_batch_larger_than_the_split(photographs, tmp_path):
    with pytest.raises(ValueError, match="batch_size 9 is larger than the train split of 8 images: lower it"):
        fit(small(), loader(photographs), recipe(batch_size=9), tmp_path / "a.safetensors")
