"""The schedule, averaged weights, reduced precision and time budgets of a training."""

import copy
import json
import math
from argparse import Namespace
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import run_program
from torch import nn

import SKT_distill
from models.build import build_network
from models.csrnet import CSRNET_TAPS
from models.distillation import PUBLISHED_TERMS, Criterion, density_loss, distillation_terms
from models.initial import init_kaiming
from models.taps import Adapters, ask_live, tap_channels
from training import loop
from training.clock import Clock
from training.experiment import TrainingError
from training.loop import learning_rate, take_step, update_average
from training.runlog import RunFolder
from training.schedule import Schedule
from training.setup import share_step
from training.state import Progress, check_optimizer
from utils import processor
from utils.checkpoint import read_checkpoint
from utils.metrics import CountResult
from utils.precision import PRECISIONS, choose_precision

CPU = torch.device("cpu")
TERMS = PUBLISHED_TERMS.split(",")
FAST = ["--workers", 0, "--cpu", "--width", "1/16", "--terms", "hard", "--crop", "32x32"]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    schedule = Schedule(epochs=1, warmup=4, cosine=True)
    rates = [learning_rate(schedule, step, planned=104) for step in range(105)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1
    assert rates[54] == pytest.approx(0.5)
    assert rates[104] == pytest.approx(0)
    assert all(first >= second for first, second in zip(rates[4:], rates[5:], strict=False))
    assert learning_rate(Schedule(epochs=1), 70, 100) == 1


@pytest.mark.parametrize("step_seconds", [0.01, 0.3, 2.0])
def test_a_plan_ends_in_time_whatever_a_step_takes(step_seconds):
    # An epoch has 10 steps, and a validation takes as long as 5; the end takes two validations.
    schedule = Schedule(epochs=10**6, cosine=True, max_seconds=100, closing=2)
    progress, rates = Progress(), []
    while progress.steps < schedule.plan(10, progress):
        rates.append(learning_rate(schedule, progress.steps, schedule.plan(10, progress)))
        progress.steps += 1
        progress.seconds += step_seconds
        if progress.steps % 10 == 0:
            progress.validation = 5 * step_seconds
            progress.seconds += progress.validation
    end = progress.seconds + 2 * 5 * step_seconds
    assert 100 - 10 * step_seconds <= end <= 100 + step_seconds
    assert rates[-1] < 0.01 and rates[len(rates) // 2] == pytest.approx(0.5, abs=0.25)


class Machine:
    """Simulates the time of a training's steps and validations, ten steps per epoch."""

    def __init__(self, monkeypatch, minutes, progress=None):
        self.seconds = self.processor = 0.0
        monkeypatch.setattr("training.clock.time", self)
        self.schedule = Schedule(epochs=10**6, max_seconds=60 * minutes, closing=1)
        self.progress = progress or Progress()
        self.clock = Clock(self.progress, shared=True)

    def perf_counter(self):
        return self.seconds

    def process_time(self):
        return self.processor

    def pass_by(self, seconds, threads):
        self.seconds += seconds
        self.processor += threads * seconds

    def train(self, until=math.inf, step=1.0, slower=1.0, threads=1.9):
        """Takes steps until a time or the plan's end; other work makes them slower."""
        progress = self.progress
        while progress.steps < self.planned and self.seconds < until:
            self.pass_by(step * slower, threads)
            progress.steps += 1
            self.clock.count_steps(1)
            if progress.steps % 10 == 0:
                self.clock.count_rest()
                self.pass_by(2 * step * slower, 0.7 * threads)  # a validation is of another kind
                self.clock.count_validation()
        return self

    @property
    def planned(self):
        return self.schedule.plan(10, self.progress)


def test_what_other_work_took_does_not_count(monkeypatch):
    quiet = Machine(monkeypatch, 90).train()
    assert quiet.progress.steps == pytest.approx(5400 / 1.2, rel=0.01)
    assert quiet.seconds <= 5400 and quiet.progress.uncounted == pytest.approx(0, abs=1e-6)
    # Seven times slower on a third of the processor: threads that wait for others use it, too.
    starved = Machine(monkeypatch, 90).train(until=1200, slower=7, threads=0.63)
    assert starved.planned < 1000
    starved.train()
    assert starved.progress.steps == pytest.approx(quiet.progress.steps, rel=0.01)
    assert starved.progress.uncounted == pytest.approx(1200 * 6 / 7, rel=0.05)
    late = Machine(monkeypatch, 90).train(until=3000).train(until=4200, slower=7, threads=0.63)
    assert late.planned == pytest.approx(quiet.progress.steps, rel=0.02)


def test_time_in_which_a_training_was_stopped_does_not_count(monkeypatch):
    stopped = Machine(monkeypatch, 30).train(until=600)
    stopped.pass_by(600, threads=0)
    stopped.train()
    assert stopped.seconds == pytest.approx(2400, rel=0.02)
    assert stopped.progress.uncounted == pytest.approx(600, rel=0.02)
    resumed = Machine(monkeypatch, 40, Progress(**asdict(stopped.progress)))
    assert resumed.planned == pytest.approx(2400 / 1.2, rel=0.02)
    resumed.pass_by(900, threads=0)  # before its first step
    resumed.train()
    assert resumed.progress.seconds == pytest.approx(2400, rel=0.01)
    assert resumed.progress.uncounted == pytest.approx(1500, rel=0.02)


def test_a_machine_that_becomes_slower_for_good_ends_in_time(monkeypatch):
    slow = Machine(monkeypatch, 30).train(until=900).train(until=1260, slower=3)
    # Five minutes of the slow pace say how much the other nine will do.
    assert slow.planned == pytest.approx(900 / 1.2 + 900 / 3 / 1.2, rel=0.05)
    slow.train(slower=3)
    assert 1780 < slow.seconds <= 1803 and slow.progress.uncounted == pytest.approx(0, abs=1e-6)


def test_older_checkpoints_plan_by_the_whole(monkeypatch):
    old = {"epoch": 10, "steps": 100, "kept": 100, "seconds": 130.0, "first": 10.0}
    resumed = Machine(monkeypatch, 10, Progress(**old, validation=2.0))
    assert resumed.planned == pytest.approx(100 + (600 - 130 - 2) / (120 / 99), abs=1)
    resumed.train()
    assert resumed.progress.seconds == pytest.approx(600, rel=0.01)


def test_a_slow_first_step_does_not_end_a_training():
    schedule, progress = Schedule(10, max_seconds=60), Progress(steps=1, seconds=30.0, first=30.0)
    assert schedule.plan(1000, progress) == 10_000  # nothing is known yet
    progress = Progress(steps=3, seconds=31.0, first=30.0)
    # 60 s less a tenth for the end less 31 s are 23 s, at 2 steps a second.
    assert schedule.plan(1000, progress) == 3 + 46


def test_a_short_training_warms_up_for_half_of_it_at_most():
    schedule = Schedule(1, warmup=200, cosine=True)
    rates = [learning_rate(schedule, step, 100) for step in range(100)]
    assert max(rates) == rates[50] == 1 and rates[-1] < 0.01


def test_a_validation_that_was_cut_off_is_made_up_for(crowd_lists, tmp_path, monkeypatch):
    """A training, killed in its last validation, and resumed."""
    out, counted = tmp_path / "run", []
    options = [*FAST, "--batch-size", 2, "--epochs", 1, "--out", out]

    def resume(*more):
        arguments = ["SKT_distill.py", *crowd_lists, *options, *more]
        monkeypatch.setattr("sys.argv", list(map(str, arguments)))
        SKT_distill.main(SKT_distill.parse_args())

    def killed(*_):
        raise KeyboardInterrupt

    def count(network, images, *_):
        counted.append(network)
        return [CountResult("a", 3, 3.0, 5.0)]

    monkeypatch.setattr("training.loop.evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        resume()
    monkeypatch.setattr("training.loop.evaluate", count)
    resume("--resume")
    assert len(counted) == 1
    assert read_checkpoint(out / "best_mae.pth")["progress"]["best_mae"] == 2.0
    (record,) = RunFolder(out, resume=True).records()
    assert (record["epoch"], record["val_mae"]) == (1, 2.0)
    monkeypatch.setattr("training.loop.evaluate", killed)
    resume("--resume")  # nothing is left to do


def test_a_plan_that_has_time_is_that_of_its_epochs():
    progress = Progress(steps=5, seconds=5.0)
    assert Schedule(3, max_seconds=1e6).plan(10, progress) == 30
    assert Schedule(3).plan(10, Progress()) == 30


def test_averaged_weights_follow_by_the_definition():
    network = nn.Sequential(nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1))
    averaged = copy.deepcopy(network).requires_grad_(False)
    expected, mean = network[0].weight.detach().clone(), network[1].running_mean.clone()
    for steps in range(1, 41):
        with torch.no_grad():
            network[0].weight.add_(torch.randn(1, 2, 1, 1))
        network(torch.randn(3, 2, 4, 4))
        update_average(averaged, network, 0.8, steps)
        decay = min(0.8, steps / (9 + steps))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
        mean = decay * mean + (1 - decay) * network[1].running_mean
    torch.testing.assert_close(averaged[0].weight, expected)
    torch.testing.assert_close(averaged[1].running_mean, mean)
    assert averaged[1].num_batches_tracked == 40


def test_the_type_follows_the_device(monkeypatch):
    for flags, expected in (
        ("fma avx2 avx512_bf16", torch.float32),
        ("avx2 amx_bf16 amx_tile", torch.bfloat16),
        (None, torch.float32),  # of a system that does not tell
    ):
        monkeypatch.setattr(processor, "_read_cpuinfo", lambda key, flags=flags: flags)
        assert choose_precision("auto", CPU) == expected
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    assert {name: choose_precision(name, CPU) for name in set(PRECISIONS) - {"auto"}} == types


def build_criterion(precision, seed=0):
    """A narrow distillation."""
    torch.manual_seed(seed)
    teacher, student = (build_network("csrnet", Fraction(1, n)) for n in (8, 16))
    adapters = Adapters(student.taps, tap_channels(student), tap_channels(teacher))
    for module in (teacher, student, adapters):
        init_kaiming(module)
    teacher.requires_grad_(False)
    ask, taps = ask_live(teacher, teacher.taps), student.taps
    return Criterion(TERMS, student, density_loss, ask, taps, adapters, precision=precision)


def train(precision, steps, seed=0):
    """Returns the terms of some steps over five batches, (steps, 4), and the first gradients."""
    step = build_criterion(precision, seed)
    optimizer = torch.optim.Adam(step.parameters(), 1e-4)
    generator = torch.Generator().manual_seed(seed + 1)
    batches = [
        {
            "image": torch.randint(0, 256, (2, 3, 48, 48), generator=generator, dtype=torch.uint8),
            "density": 0.1 * torch.rand(2, 1, 6, 6, generator=generator),
        }
        for _ in range(5)
    ]
    logged, gradients = [], []
    for i in range(steps):
        losses = step(batches[i % 5])
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        gradients = gradients or [weight.grad.clone() for weight in step.parameters()]
        optimizer.step()
        logged.append(torch.stack([losses[name].detach() for name in TERMS]))
    return torch.stack(logged), gradients


def test_terms_of_bfloat16_features_are_computed_in_float32():
    # Near its teacher, where a term is a small difference, bfloat16's own would be off by 0.3 %
    # (squared error), 2 % (intra) and 0.07 % (inter). Adapters that change nothing round nothing.
    generator = torch.Generator().manual_seed(0)

    def draw(channels, side):
        taught = torch.randn(2, channels, side, side, generator=generator)
        learnt = taught + 0.1 * torch.randn(taught.shape, generator=generator)
        return learnt.relu().bfloat16(), taught.relu().bfloat16()

    adapters = [nn.Conv2d(8, 8, 1) for _ in CSRNET_TAPS]
    for adapter in adapters:
        nn.init.dirac_(adapter.weight)
        nn.init.zeros_(adapter.bias)
    maps = draw(1, 6)
    features = zip(*(draw(8, 48 // tap.stride) for tap in CSRNET_TAPS), strict=True)
    read = list(zip(maps, features, strict=True))  # of the student and of the teacher
    batch = {"density": torch.rand(2, 1, 6, 6, generator=generator)}

    def terms(precision):
        student, teacher = ((m.to(precision), [f.to(precision) for f in fs]) for m, fs in read)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            return distillation_terms(
                TERMS,
                student,
                teacher,
                adapters,
                density_loss,
                CSRNET_TAPS,
                batch=batch,
            )

    # The same sums in the same order; 1e-5 is for processors that would order them otherwise. The
    # relations' groups alone are rounded, once they are normalised: that is 0.03 %.
    reduced, exact = terms(torch.bfloat16), terms(torch.float32)
    torch.testing.assert_close(reduced.pop("inter"), exact.pop("inter"), rtol=5e-4, atol=0)
    torch.testing.assert_close(reduced, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_bfloat16_and_float32_agree_at_the_same_weights(seed):
    # bfloat16 has 8 bits: a result is off by up to 0.4 %. Of 20 seeds, in oneDNN's AVX2, AVX-512,
    # AVX-512 BF16 and AMX alike, the worst was off by 1.8 % (hard), 1.4 % (soft), 0.04 % (intra)
    # and 0.19 % (inter); and of each seed's gradients by tensor, the median of the cosines was at
    # least 0.971 and that of the lengths' ratios 0.984 to 1.034. Single tensors can be anywhere:
    # a cosine's slope is 1 / length, and some of conv1_1's adapted vectors have hardly any.
    (exact, wanted), (reduced, found) = (train(t, 1, seed) for t in (torch.float32, torch.bfloat16))
    error = (reduced / exact - 1).abs().squeeze(0)
    assert (error < torch.tensor([0.03, 0.03, 0.001, 0.003])).all(), error
    pairs = [(f.flatten(), w.flatten()) for f, w in zip(found, wanted, strict=True)]
    cosines = torch.stack([torch.cosine_similarity(f, w, 0) for f, w in pairs])
    lengths = torch.stack([f.norm() / w.norm() for f, w in pairs])
    assert cosines.median() > 0.95
    assert lengths.median().item() == pytest.approx(1, abs=0.06)


def test_bfloat16_and_float32_learn_alike():
    # Adam takes as long a step along a gradient of rounding errors as along any other, so paths
    # part: over 20 seeds, float32 from weights that are 0.1 % off ends up to 12, 3.3, 0.7 and 0.3 %
    # elsewhere (hard, soft, intra, inter). bfloat16 did 15, 3.6, 1.5 and 0.4 % in AVX2; 11, 5.9,
    # 1.5, 0.3 in AVX-512; 12, 3.7, 1.5, 0.5 in AVX-512 BF16; 15, 5.3, 1.6, 0.3 in AMX.
    # Were the weights themselves bfloat16, this seed would end 103, 18, 1.5 and 11 % elsewhere.
    (exact, _), (reduced, _) = (train(t, 50) for t in (torch.float32, torch.bfloat16))
    beginning, end = exact[:10].mean(0), exact[-10:].mean(0)
    assert (end < beginning).all()
    error = (reduced[-10:].mean(0) / end - 1).abs()
    assert (error < torch.tensor([0.25, 0.1, 0.025, 0.008])).all(), error


def test_a_time_budget_ends_a_training_that_more_time_continues(crowd_lists, tmp_path, monkeypatch):
    now = 0.0

    def takes(seconds, work):
        def timed(*arguments):
            nonlocal now
            now += seconds
            return work(*arguments)

        return timed

    def read():
        return now

    monkeypatch.setattr(
        "training.clock.time", SimpleNamespace(perf_counter=read, process_time=read)
    )
    monkeypatch.setattr(loop, "take_step", takes(0.2, loop.take_step))
    monkeypatch.setattr(loop, "evaluate", takes(0.25, loop.evaluate))
    out = tmp_path / "run"
    options = ["--out", out, *FAST, "--batch-size", 2, "--epochs", 10**6, "--cosine"]
    options += ["--ema", 0.9, "--warmup", 5, "--scale", "0.7:1.4", "--colour", 0.3]

    def run(minutes, *more):
        result = run_program(
            "SKT_distill.py", *crowd_lists, *options, "--max-minutes", minutes, *more
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    run(0.1)
    last = read_checkpoint(out / "last.pth")
    seconds, steps = last["progress"]["seconds"], last["progress"]["steps"]
    assert 5 < seconds <= 6
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    best = min(record[name] for record in log for name in ("val_mae", "val_ema_mae"))
    assert json.loads((out / "result.json").read_text())["val_mae"] == best
    assert "is finished already" in run(0.1, "--resume")
    run(0.2, "--resume")
    again = read_checkpoint(out / "last.pth")["progress"]
    assert again["steps"] > steps and 5 < again["seconds"] - seconds <= 7


def test_the_chosen_weights_are_the_better_ones(crowd_lists, tmp_path):
    options = ["--out", tmp_path / "run", *FAST, "--epochs", 2, "--ema", 0.99, "--lr", 1e-3]
    result = run_program("SKT_distill.py", *crowd_lists, *options)
    assert result.returncode == 0, result.stderr
    assert "validation of averaged weights MAE" in result.stdout
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    best = min((r[name], name) for r in log for name in ("val_mae", "val_ema_mae"))
    checkpoint = read_checkpoint(tmp_path / "run/best_mae.pth")
    same = all(
        torch.equal(checkpoint["model"][name], tensor)
        for name, tensor in checkpoint["averaged"].items()
    )
    assert same == (best[1] == "val_ema_mae")
    assert math.isfinite(best[0])


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_terms(monkeypatch):
    traced = partial(torch.compile, backend="aot_eager")  # test_engines.py translates to C++, too
    monkeypatch.setattr(torch, "compile", traced)
    batch = {
        "image": torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8),
        "density": torch.rand(2, 1, 6, 8),
    }
    eager, compiled = (
        share_step(build_criterion(torch.float32), Namespace(compile=c, device=CPU))(batch)
        for c in (False, True)
    )
    torch.testing.assert_close(compiled, eager)


def test_without_a_compiler_a_line_says_so(monkeypatch, capsys):
    def fail(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nand a traceback")

    monkeypatch.setattr(torch, "compile", fail)
    criterion = build_criterion(torch.float32)
    step = share_step(criterion, Namespace(compile=True, device=CPU))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "--compile: goes on without, torch.compile failed: " + (
        "InvalidCxxCompiler: No working C++ compiler found"
    )
    assert step is criterion


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_memory_that_is_too_small_is_named_with_the_crops(error):
    def step(*_):
        raise error

    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([weight])
    optimizer.step = step
    state = SimpleNamespace(optimizer=optimizer, scaler=torch.amp.GradScaler(enabled=False))
    facts = {"progress": Progress(), "device": CPU, "weights": {"hard": 1.0}}
    facts |= {"schedule": Schedule(1), "planned": 1}
    batch = {"image": torch.zeros(2, 3, 32, 48), "name": ["a.jpg", "b.jpg"]}
    for at in ({"state": None, "step": step}, {"state": state, "step": lambda _: {"hard": weight}}):
        with pytest.raises(TrainingError) as caught:
            take_step(SimpleNamespace(**facts, **at), batch, 1.0)
        assert "the memory is too small for a step of 2 crops of 32x48; " in str(caught.value)
        assert str(caught.value).endswith("images: a.jpg, b.jpg")


def test_a_state_of_an_older_pytorch_goes_on():
    def build():
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        return network, torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.01)

    def step(network, optimizer):
        optimizer.zero_grad()
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    (network, optimizer), (again, other) = build(), build()
    step(network, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    (group,) = saved["param_groups"]
    for name in group.keys() - {"params", "lr", "weight_decay", "betas", "eps"}:
        del group[name]
    check_optimizer(saved, other)
    other.load_state_dict(saved)
    again.load_state_dict(network.state_dict())
    for pair in ((network, optimizer), (again, other)):
        step(*pair)
    torch.testing.assert_close(again.weight, network.weight)
    del group["lr"]
    with pytest.raises(ValueError, match="lr is not like"):
        check_optimizer(saved, other)
