"""The data path of a training: three caches, workers, processes and seeds give the same crops."""

import pytest
import torch
from pictures import assert_same_batches, options, write_noise, write_sample

from datasets import memory
from datasets.crowd import CrowdDataset
from datasets.loaders import build_loaders
from datasets.memory import check_memory, crop_bytes, image_bytes
from datasets.sampler import CropSampler
from datasets.splits import DataError
from datasets.transforms import FixedCrop, ScaledCrop
from utils import ram
from utils.ram import free_ram

CPU = torch.device("cpu")
BOTH = ("density", "bayesian")
AUGMENTED = {"scale": (0.6, 1.6), "colour": 0.3, "corrupt": 0.5}
BATCHES = [{"crop": FixedCrop(32, 40)}, {"crop": ScaledCrop(0.5, 1), "batch_size": 1}]


def write_lists(folder):
    """The samples of three lists; the pictures' sizes differ, and one is smaller than a crop."""
    sizes = [(50, 70), (24, 30), (61, 90), (40, 41), (90, 33), (48, 48), (33, 70), (64, 64)]
    samples = [write_noise(folder, str(i), size, 3 * i) for i, size in enumerate(sizes)]
    return samples[:4], samples[4:7], samples[7:]


@pytest.mark.parametrize("changed", BATCHES)
@pytest.mark.parametrize("augmentation", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_caches_and_workers_give_the_same_batches(tmp_path, augmentation, changed):
    lists = write_lists(tmp_path)

    def load(cache, workers):
        args = options(*lists, cache=cache, workers=workers, **augmentation, **changed)
        crops, val, test = build_loaders(args, BOTH)
        epochs = []
        for crops.sampler.epoch in range(2):
            epochs += crops
        assert crops.dataset.heads == [0, 3, 6, 9]
        return epochs, list(val), list(test)

    crops, val, test = load("none", 0)
    assert len(crops) == 2 * (3 if crops[0]["image"].shape[0] > 1 else 8)
    assert ("colour" in crops[0]) == bool(augmentation)
    assert [tuple(batch["image"].shape) for batch in val] == [
        (1, 3, 90, 33), (1, 3, 48, 48), (1, 3, 33, 70),
    ]  # fmt: skip
    for cache, workers in [("none", 2), ("ram", 0), ("ram", 2), ("gpu", 0)]:
        for found, expected in zip(load(cache, workers), (crops, val, test), strict=True):
            assert_same_batches(expected, found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("augmentation", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_a_gpu_makes_the_batches_of_the_cpu(tmp_path, augmentation):
    lists, gpu = write_lists(tmp_path), torch.device("cuda", 0)
    batches = {}
    for cache, device in (("none", CPU), ("gpu", gpu)):
        args = options(*lists, cache=cache, device=device, **augmentation)
        crops, val, _ = build_loaders(args, BOTH)
        batches[cache] = [*crops, *val]
    for expected, found in zip(*batches.values(), strict=True):
        assert found["image"].device == gpu
        assert found["image"].is_contiguous(memory_format=torch.channels_last)
        difference = found.pop("image").cpu().int() - expected.pop("image").int()
        assert difference.abs().max() <= bool(augmentation)  # a half rounds to either side
        density = found.pop("density").cpu()
        torch.testing.assert_close(density, expected.pop("density"), rtol=1e-6, atol=1e-7)
        assert_same_batches([expected], [{
            name: value.cpu() if isinstance(value, torch.Tensor) else value
            for name, value in found.items()
        }])  # fmt: skip


@pytest.mark.parametrize("cache", ["ram", "gpu"])
def test_a_cache_reads_every_file_once(tmp_path, cache):
    lists = write_lists(tmp_path)
    crops, val, _ = build_loaders(options(*lists, cache=cache), ["density"])
    before = list(crops)
    for sample in [*lists[0], *lists[1]]:
        sample.image.unlink()
        sample.density.unlink()
    assert_same_batches(before, list(crops))
    assert len(list(val)) == len(list(val)) == 3


def test_crops_carry_the_ground_truth_that_is_asked_for(tmp_path):
    lists = write_lists(tmp_path)
    for name in BOTH:
        crops, val, _ = build_loaders(options(*lists), [name])
        (crop, *_), (image, *_) = list(crops), list(val)
        truth = {"density"} if name == "density" else {"points", "targets", "side"}
        assert crop.keys() == {"image", "heads", "name"} | truth
        assert image.keys() == {"image", "heads", "name", "density"}
    for sample in lists[0]:
        sample.density.unlink()  # heads are known, maps are not looked at
    assert len(list(crops)) == 3


@pytest.mark.parametrize("crops", [12, 13, 14, 15])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_of_one(crops, processes):
    single = CropSampler(crops, 1, batch_size=4, seed=3)
    parts = [CropSampler(crops, 1, 4, 3, rank, processes) for rank in range(processes)]
    for epoch in range(2):
        for sampler in (single, *parts):
            sampler.epoch = epoch
        steps = zip(single, *parts, strict=True)
        for step, (joined, *own) in enumerate(steps):
            shares = [part.share(step) for part in parts]
            passed = [one for one, share in zip(own, shares, strict=True) if share]
            assert sorted(sum(passed, [])) == sorted(joined)
            assert all(one == joined[:1] for one in own if one not in passed)
            # The mean over processes of share times mean is the mean over the joined batch.
            means = [share * sum(n for n, _ in one) / len(one) for one, share in zip(own, shares)]  # noqa: B905
            assert sum(means) / processes == pytest.approx(sum(n for n, _ in joined) / len(joined))
            if len(joined) == 4:
                assert shares == [1] * processes
        assert single.share(0) == 1 and len(list(single)) == len(single) == -(-crops // 4)


def test_processes_together_see_what_one_does(tmp_path, monkeypatch):
    lists = write_lists(tmp_path)
    args = options(*lists, batch_size=2, crops_per_image=1, **AUGMENTED)
    crops, val, test = map(list, build_loaders(args, BOTH))
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        parts.append(list(map(list, build_loaders(args, BOTH))))
    for joined, first, second in zip(crops, parts[0][0], parts[1][0], strict=True):
        for name in ("image", "density", "heads", "side", "colour"):
            assert torch.equal(joined[name], torch.cat([first[name], second[name]])), name
        assert joined["name"] == first["name"] + second["name"]
    assert_same_batches(val, [parts[0][1][0], parts[1][1][0], parts[0][1][1]])
    assert_same_batches(test, parts[0][2])
    assert parts[1][2] == []  # fewer images than processes
    with pytest.raises(DataError, match="--batch-size 3 cannot be shared evenly by 2 processes"):
        build_loaders(options(*lists, batch_size=3), BOTH)


@pytest.mark.parametrize("cache", ["none", "gpu"])
def test_an_epoch_is_taken_up_at_any_step(tmp_path, cache):
    args = options(*write_lists(tmp_path), cache=cache, workers=2)
    crops, _, _ = build_loaders(args, BOTH)
    whole = list(crops)
    crops.sampler.start = 1
    assert len(crops) == 2
    assert_same_batches(whole[1:], list(crops))
    crops.sampler.epoch, crops.sampler.start = 1, 0
    assert [b["name"] for b in crops] != [b["name"] for b in whole]
    other, _, _ = build_loaders(options(*write_lists(tmp_path), cache=cache, seed=1), BOTH)
    assert [b["name"] for b in other] != [b["name"] for b in whole]


def test_an_epoch_passes_every_image_equally_and_another_order_each_time():
    sampler = CropSampler(images=5, crops_per_image=4, batch_size=3, seed=1)
    first = list(sampler)
    assert [len(batch) for batch in first] == [3] * 6 + [2] and len(sampler) == 7
    crops = sum(first, [])
    assert sorted(image for image, _ in crops) == sorted(list(range(5)) * 4)
    assert len({seed for _, seed in crops}) == 20
    assert list(sampler) == first
    sampler.start = 2
    assert list(sampler) == first[2:] and len(sampler) == 5
    sampler.epoch, sampler.start = 1, 0
    second = sum(sampler, [])
    assert [image for image, _ in second] != [image for image, _ in crops]
    assert not {seed for _, seed in second} & {seed for _, seed in crops}
    larger = sum(CropSampler(images=5, crops_per_image=4, batch_size=5, seed=1), [])
    assert larger == crops  # the batch's size changes no crop


def test_crops_of_different_sizes_make_no_batch(tmp_path):
    args = options(*write_lists(tmp_path), crop=ScaledCrop(0.5, 1), batch_size=2)
    with pytest.raises(DataError, match="--batch-size 2 needs crops of one size"):
        build_loaders(args, ["density"])


@pytest.mark.parametrize("cache", ["ram", "gpu"])
def test_a_cache_that_does_not_fit_is_refused_with_the_numbers(tmp_path, monkeypatch, cache):
    lists = write_lists(tmp_path)
    monkeypatch.setattr(memory, "available_memory", lambda device: 200_000)
    build_loaders(options(*lists, cache=cache), BOTH)
    monkeypatch.setattr(memory, "available_memory", lambda device: 100_000)
    build_loaders(options(*lists, cache=cache), ["bayesian"])
    reason = rf"--cache {cache} needs .* GB.*of the 0.0001 GB that are free on cpu; --cache none"
    with pytest.raises(DataError, match=reason):
        build_loaders(options(*lists, cache=cache), BOTH)


def test_a_gpu_without_room_for_a_batch_is_named_with_what_needs_less(tmp_path, monkeypatch):
    def cut(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    args = options(*write_lists(tmp_path), cache="gpu", workers=0, **BATCHES[0])
    crops, *_ = build_loaders(args, BOTH)
    monkeypatch.setattr(CrowdDataset, "_cut_images", cut)
    with pytest.raises(DataError, match="too small for 3 crops .* --cache ram, or a smaller"):
        next(iter(crops))


def test_processes_need_ram_each_and_a_gpu_keeps_room(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 10e9)
    check_memory("ram", int(4e9), CPU, processes=2)
    reason = r"needs 12 GB for 3 processes, and may take 8 of the 10 GB .* on cpu; --cache none"
    with pytest.raises(DataError, match=reason):
        check_memory("ram", int(4e9), CPU, processes=3)
    gpu = torch.device("cuda", 1)
    check_memory("gpu", int(6e9), gpu, processes=8)
    reason = r"needs 6.5 GB, and may take 6 of the 10 GB .* on cuda:1; --cache ram or none"
    with pytest.raises(DataError, match=reason):
        check_memory("gpu", int(6.5e9), gpu, processes=1)


def test_the_estimate_is_what_is_held(tmp_path):
    sample = write_noise(tmp_path, "a", (61, 90), heads=3)
    image = CrowdDataset([sample])[[0]]
    held = image["image"].nbytes + image["density"].nbytes
    assert image_bytes([(61, 90)]) == held
    assert crop_bytes([(61, 90)], density=False) == image["image"].nbytes == 3 * 61 * 90
    assert crop_bytes([(61, 90)], density=True) == (3 + 4) * 61 * 90


def test_free_memory_is_the_least_that_machine_and_cgroups_leave(tmp_path, monkeypatch):
    meminfo, own = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  4000 kB\n")
    own.write_text("5:cpu:/a\n0::/job/step\n")
    monkeypatch.setattr(ram, "MEMINFO", meminfo)
    monkeypatch.setattr(ram, "OWN_CGROUPS", own)
    root = str(tmp_path / "fs")
    monkeypatch.setattr(ram, "CGROUPS", {"": (root, "memory.max", "memory.current", "cached")})
    assert free_ram() == 4000 * 1024  # no limits
    for folder, limit in (("job", "2000000"), ("job/step", "max")):
        group = tmp_path / "fs" / folder
        group.mkdir(parents=True)
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("700000")
        (group / "memory.stat").write_text("anon 5\ncached 200000\n")
    assert free_ram() == 2000000 - 700000 + 200000
    meminfo.unlink()
    own.unlink()
    assert free_ram() > 2**28  # the whole machine's


def test_workers_that_cannot_fork_cannot_share_the_ram(tmp_path, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    lists = write_lists(tmp_path)
    with pytest.raises(DataError, match="--cache ram: --workers 2 would share the RAM by fork"):
        build_loaders(options(*lists, cache="ram", workers=2), BOTH)
    build_loaders(options(*lists, cache="ram", workers=0), BOTH)


def test_a_batch_fills_up_its_points_with_infinitely_far_ones(tmp_path):
    points = [[(5, 5), (40, 30), (90, 60)], [], [(50, 33)]]
    samples = [write_sample(tmp_path, name=str(i), points=p) for i, p in enumerate(points)]
    others = [write_sample(tmp_path, name=name) for name in ("v", "t")]
    whole = {"crop": FixedCrop(64, 96), "flip": 0, "crops_per_image": 1}

    def load(samples, **changed):
        args = options(samples, others[:1], others[1:], **whole, **changed)
        (batch,), _, _ = build_loaders(args, BOTH)
        return batch

    batch = load(samples)
    assert batch["points"].shape == (3, 3, 2) and batch["targets"].shape == (3, 3)
    for name, found, targets in zip(batch["name"], batch["points"], batch["targets"], strict=True):
        expected = points[int(name[-5])]
        assert found[: len(expected)].tolist() == [list(point) for point in expected]
        assert found[len(expected) :].isinf().all()
        assert targets.tolist() == [1] * len(expected) + [0] * (3 - len(expected))
    assert load(samples[1:2], batch_size=1)["points"].shape == (1, 0, 2)  # nobody in all of it
