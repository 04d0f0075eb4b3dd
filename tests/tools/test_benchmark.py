"""The benchmark: everyone computes the same, its figures are what its single times say, and who is missing is told."""

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT
from helpers.command import run
from helpers.networks import small_plan

import dense_resnet as dr
from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding
from dense_resnet.inference import precision as precisions
from dense_resnet.verification import laws
from tools import benchmark as verb
from tools import cli
from tools.benchmarking import chart, competitors, contest, hardware, network_files, roofline
from tools.benchmarking.competitors import COMPETITORS, OPENVINO, TENSORFLOW, Competitor
from tools.benchmarking.segmentation import keras_network, training_timings
from tools.benchmarking.timing import Timing, alternate
from tools.benchmarking.worker_process import Process
from tools.benchmarking.workload import BFLOAT16, FLOAT32, INT8, PRECISIONS, Workload

NNCF = network_files.openvino_int8, network_files.openvino_from_onnx_int8  # which quantizes by it


def has(*packages):
    return all(importlib.util.find_spec(package) for package in packages)


HAS_BFLOAT16 = precisions.choose_precision(precisions.AUTO) == BFLOAT16
RESULTS = sorted((ROOT / "tools" / "benchmarking" / "results").glob("*/*.json"))

FAKES = """
import os
import time
from pathlib import Path

def same(case, weights, precision):
    return lambda: case.images()

def other(case, weights, precision):
    return lambda: case.images() + 0.01

def failing(case, weights, precision):
    raise KeyError("a defect")

def mortal(case, weights, precision):
    runs = iter(range(3))
    return lambda: case.images() if next(runs, None) is not None else os._exit(7)

def cached(case, weights, precision):
    place = Path(os.environ["DENSE_RESNET_CACHE"])
    if not place.exists():
        time.sleep(0.5)
        place.mkdir()
    return lambda: case.images()

def slow(case, weights, precision):
    def run():
        time.sleep(0.02)
        with open(case.folder.parent / "turns", "a") as turns:
            turns.write("turn ")
        return case.images()
    return run

class Mortal:
    def pid(self):
        return os.getpid()

    def die(self):
        print("last words", flush=True)
        os._exit(7)
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Competitors that import nothing, in a module that other processes find."""
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("fakes")
    del sys.modules["fakes"]


# --------------------------------------------------------------------------------------------------------------------
# A whole run


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(figures, the chart's file, what was printed) of one run, on a machine where OpenVINO is not installed."""
    folder = tmp_path_factory.mktemp("benchmark")
    lacking = tuple(
        dataclasses.replace(one, modules=("no_such_package",)) if one.name == "openvino-from-onnx" else one
        for one in COMPETITORS
    )
    options = "--model resnet_v1_18 --size 65 --batches 2 --burn-in 1 --batch 2".split()
    versus = "--versus keras onnxruntime openvino-from-onnx".split()
    files = ["--json", folder / "b.json", *(["--chart", folder / "b.png"] if has("matplotlib") else [])]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(contest, "COMPETITORS", lacking)
        assert cli.main([str(word) for word in ("benchmark", *options, *versus, *files)]) == 0
    return json.loads((folder / "b.json").read_text()), folder / "b.png", printed.getvalue()


@pytest.mark.slow
def test_installed_competitors_are_timed_and_missing_ones_reported(measured):
    figures, _, printed = measured
    ours = (TENSORFLOW, OPENVINO) if has("openvino") else (TENSORFLOW,)
    expected = [name for own in ours for name in (own, f"{own} bfloat16") if HAS_BFLOAT16 or name == own]
    expected += ["keras", *(["onnxruntime"] if has("onnxruntime", "tf2onnx") else [])]
    timings = {timing["name"]: timing for timing in figures["timings"]}
    assert list(timings) == expected
    assert {"openvino-from-onnx", "openvino-from-onnx bfloat16"} <= set(figures["skipped"])
    assert figures["skipped"]["openvino-from-onnx"] == "No module named 'no_such_package'"
    assert "skipped: openvino-from-onnx: No module named 'no_such_package'" in printed
    assert not figures["failed"]
    assert not figures["stopped"]
    for name, timing in timings.items():
        assert len(timing["seconds"]) == len(timing["idle_processor_seconds"]) == 2
        assert timing["images_per_second"] == pytest.approx(2 / median(timing["seconds"]))
        assert timing["gmac_per_second"] == pytest.approx(figures["gmac"] / median(timing["seconds"]))
        assert timing["relative_error"] < (0.5 if "bfloat16" in name else 1e-4)
        assert timing["build_seconds"] > max(timing["seconds"])
        assert name.split()[0] in printed
        assert timing["imported_memory_bytes"] < timing["peak_memory_bytes"]
        assert (timing["cached_build_seconds"] is None) == (timing["competitor"] != OPENVINO)
    if HAS_BFLOAT16:
        assert timings[f"{TENSORFLOW} bfloat16"]["relative_error"] > 1e-3
    assert 2**28 < timings["keras"]["peak_memory_bytes"] < 2**33
    assert figures["gmac"] == pytest.approx(2 * dr.plan("resnet_v1_18", output_stride=16).macs(65) / 1e9)


@pytest.mark.slow
def test_ratios_are_medians_of_pairs(measured):
    figures = measured[0]
    seconds = {timing["name"]: timing["seconds"] for timing in figures["timings"]}
    assert list(figures["ratios"]) == [timing["name"] for timing in figures["timings"] if timing["ours"]]
    for own in figures["ratios"]:
        assert set(figures["ratios"][own]) == set(seconds) - {own}
        for other, value in figures["ratios"][own].items():
            assert value == pytest.approx(median(b / a for a, b in zip(seconds[own], seconds[other], strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [FLOAT32, *([BFLOAT16] if HAS_BFLOAT16 else [])])
def test_limits_are_measured_in_the_same_rounds(precision, measured):
    figures = measured[0]
    limit = figures["limits"][precision]
    rates = [2 * 2048**3 / min(seconds) for seconds in limit["matrix_products"]["seconds"]]
    assert limit["matrix_products"]["gflop_per_second"] == pytest.approx(median(rates) / 1e9)
    assert limit["matrix_products"]["best_gflop_per_second"] == pytest.approx(max(rates) / 1e9)
    least = [2 * figures["gmac"] * 1e9 / rate for rate in rates]
    assert limit["least_seconds"] == pytest.approx(median(least))
    assert limit["rounds"][0] == 0
    assert len(rates) == len(limit["rounds"])
    for own in (one for one in figures["timings"] if one["ours"] and one["precision"] == precision):
        pairs = zip((own["seconds"][number] for number in limit["rounds"]), least, strict=True)
        assert limit["ours / least"][own["competitor"]] == pytest.approx(median(a / b for a, b in pairs))

    onednn = limit["onednn"]
    if "skipped" in onednn:
        pytest.skip(f"TensorFlow runs no {precision} convolutions by oneDNN here")
    seconds = next(
        one["seconds"] for one in figures["timings"] if (one["competitor"], one["precision"]) == (TENSORFLOW, precision)
    )
    own = [seconds[number] for number in limit["rounds"]]
    ours_of_it = median(a / b for a, b in zip(own, onednn["convolution_seconds"], strict=True))
    assert onednn["ours / convolutions"] == pytest.approx(ours_of_it)
    plan = dr.plan("resnet_v1_18", output_stride=16)
    convolutions = sum(len(unit.convolutions) + bool(unit.shortcut) for unit in plan.units) + 1
    assert sum(one["count"] for one in onednn["operations"] if one["kind"] == "convolution") == convolutions
    assert sum(one["milliseconds"] for one in onednn["operations"]) < 3 * onednn["run_milliseconds"]


@pytest.mark.slow
def test_machine_versions_and_arguments_are_recorded(measured):
    figures = measured[0]
    assert figures["machine"]["cores"] >= 1
    assert figures["machine"]["processor"]
    assert figures["machine"]["flags"] == sorted(figures["machine"]["flags"], key=figures["machine"]["flags"].index)
    assert figures["versions"]["tensorflow"] == tf.__version__
    assert figures["versions"]["keras"]
    assert figures["date"].startswith("20")
    assert figures["arguments"]["versus"][0] == "keras"
    assert len(figures["load_before"]) == len(figures["load_after"])


@pytest.mark.slow
def test_extraction_evaluation_training_and_confusion_are_timed(monkeypatch):
    monkeypatch.setattr(verb, "LABEL_MAPS", [((33, 65), 21)])
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    options = "--size 65 --crop 65 --images 2 --batches 1 --versus extract evaluate train confusion".split()
    timings, figures = verb._other_work(parser.parse_args(options), small_plan("v2, last unit", 8))
    assert figures["timings"] == [timing.as_dict() for timing in timings]
    seconds = {timing.name: timing.seconds for timing in timings}
    assert list(seconds) == [
        "forward", "extract", "logits + argmax", "evaluate", "dense_resnet", "Keras fit", "dense_resnet, bfloat16",
    ]  # fmt: skip
    ratios = {name.partition("(")[0].strip(): value for name, value in figures["ratios"].items()}
    for name, (one, other) in {
        "forward / extract": ("forward", "extract"),
        "evaluate /": ("evaluate", "logits + argmax"),
        "Keras fit / our training step in float32": ("Keras fit", "dense_resnet"),
    }.items():
        pairs = zip(seconds[one], seconds[other], strict=True)
        assert ratios[name] == pytest.approx(median(a / b for a, b in pairs))
    assert ratios["confusion matrix, 33x65, 21 classes: keras / dense_resnet"] > 0
    assert len(figures["peak_memory_bytes_after_each_extract"]) == 3
    assert figures["systems"]["extract"]["engine"] == (OPENVINO if has("openvino") else TENSORFLOW)
    assert figures["systems"]["evaluate"]["batch"] == 1


@pytest.mark.slow
def test_the_chart_is_a_picture(measured):
    pytest.importorskip("matplotlib")
    figures, file, _ = measured
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width == chart.WIDTH * chart.DOTS
    assert 400 < height < width
    pixels = decoding.decode_image("chart", data)
    ours, background = (int(np.all(pixels == colour, axis=-1).sum()) for colour in ((0x1D, 0x4E, 0x79), (255, 255, 255)))
    assert ours > 1000  # bars are drawn
    assert background > pixels.size / 3 / 2
    one_bar_less = figures | {"timings": [one for one in figures["timings"] if one["competitor"] != "keras"]}
    assert struct.unpack(">II", chart.draw(one_bar_less)[16:24])[1] < height


# --------------------------------------------------------------------------------------------------------------------
# Everyone computes the same


@pytest.mark.parametrize("classes", [None, 7])
def test_runtimes_of_files_compute_the_same(classes, tmp_path):
    blocks = [("block1", [(16, 4, 2)]), ("block2", [(32, 8, 2), (32, 8, 1)])]
    plan = dr.plan(blocks, output_stride=8, num_classes=classes)
    case = Workload(plan, 50, 2, tmp_path)
    backbone = laws.backbone_with(plan, case.weights())
    reference = (backbone.logits if classes else backbone)(case.images()).numpy()
    assert reference.std() > 1e-2
    for one in COMPETITORS:
        needed = {*one.modules, *(["nncf"] if one.write in NNCF else []), *(["tf2onnx"] if one.write != NNCF[0] else [])}
        if one.write and has(*needed):
            values = one.make(case, {}, one.precision, one.write(case))()
            assert laws.relative_error(values, reference) < (1e-4 if one.precision == FLOAT32 else 0.5), one.label


@pytest.mark.parametrize(("name", "classes"), [("resnet_v1_5_18", None), ("resnet_v1_5_18", 7), ("resnet_v2_50", None)])
def test_timm_computes_the_same_where_its_units_are_ours(name, classes, timm_resnet, tmp_path):
    plan = dr.plan(name, output_stride=16, num_classes=classes)
    case = Workload(plan, 65, 1, tmp_path)
    weights = case.weights()
    timm = next(one for one in COMPETITORS if one.name == "timm")
    values = timm.as_array(timm.make(case, weights, FLOAT32)())
    assert timm.has_our_weights(plan) == (name != "resnet_v2_50")
    if timm.has_our_weights(plan):
        backbone = laws.backbone_with(plan, weights)
        reference = (backbone.logits if classes else backbone)(case.images())
        assert laws.relative_error(values, reference) <= 1e-4
    else:
        assert values.shape == (1, *plan.feature_size(65), plan.depth)


@pytest.mark.slow
def test_slim_computes_the_same(tmp_path):
    plan = dr.plan("resnet_v1_50", output_stride=16, num_classes=7)
    case = Workload(plan, 33, 1, tmp_path)
    weights = case.weights()
    values = competitors.slim(case, weights, FLOAT32)()
    assert laws.relative_error(values, competitors.function(case, weights, FLOAT32)()) <= 1e-5
    assert laws.relative_error(values, competitors.tensorflow(case, weights, FLOAT32)()) <= 1e-4
    assert not weights, "they are held twice"


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("resnet_v2_152", "resnetv2_152"), ("resnet_v1_152", "resnet152"), ("resnet_v1_50_original", "resnet50")],
)
def test_plans_map_to_timm_names(name, theirs):
    assert competitors.timm_name(dr.plan(name, output_stride=16)) == theirs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_v1_50_beta", {}),
        ("resnet_v2_200", {}),
        ("resnet_v2_50", {"multi_grid": (1, 2, 4)}),
        ("resnet_v2_50", {"output_stride": 4}),
    ],
)
def test_networks_missing_from_timm_are_refused(name, options):
    with pytest.raises(InputError, match="timm has no resnet_v.* to compare with: leave timm out"):
        competitors.timm_name(dr.plan(name, **{"output_stride": 16} | options))


def contest_of(fakes, monkeypatch, *makers, **options):
    """Ours is "same" or "cached"; it has the name that needs no TensorFlow for limits."""
    entering = tuple(
        Competitor(
            OPENVINO if maker in ("same", "cached") else maker, FLOAT32, getattr(fakes, maker), (), has_cache=maker == "cached"
        )
        for maker in makers
    )
    monkeypatch.setattr(contest, "COMPETITORS", entering)
    return contest.contest(dr.plan("resnet_v1_18"), 33, 1, makers, **options)


def test_a_wrong_competitor_is_refused_before_anything_is_timed(fakes, monkeypatch):
    with pytest.raises(InputError, match="other: its output differs from ours by .*: leave other out of --versus"):
        contest_of(fakes, monkeypatch, "same", "other")


def test_a_competitor_that_fails_or_dies_leaves_the_others_their_figures(fakes, monkeypatch):
    found = contest_of(fakes, monkeypatch, "same", "failing", "mortal", "slow", runs=4, burn_in=1)
    assert "in failing" in found.failed["failing"]
    assert "KeyError: 'a defect'" in found.failed["failing"]
    assert "ended with code 7" in found.failed["mortal"]
    figures = found.as_dict()
    assert [(one["name"], len(one["seconds"])) for one in figures["timings"]] == [(OPENVINO, 4), ("slow", 4)]
    assert all(one["peak_memory_bytes"] > 2**20 for one in figures["timings"])
    (fastest,) = figures["fastest"]
    assert (fastest["ours"], fastest["other"]) == (OPENVINO, "slow")
    assert fastest["times_as_fast"] == figures["ratios"][OPENVINO]["slow"] > 1


def test_a_contest_without_a_survivor_ends_and_its_reason_is_told(fakes, monkeypatch):
    entering = (Competitor(OPENVINO, FLOAT32, fakes.mortal, ()),)
    monkeypatch.setattr(contest, "COMPETITORS", entering)
    with pytest.raises(RuntimeError, match="no network could be timed\n.* ended with code 7"):
        cli.main(["benchmark", "--model", "resnet_v1_18", "--size", "33", "--batches", "1000000"])


def test_a_second_start_finds_the_cache_of_the_first(fakes, monkeypatch):
    (entry,) = contest_of(fakes, monkeypatch, "cached", runs=1, burn_in=0).entries
    assert entry.timing.build_seconds > 0.5 > entry.cached_build_seconds


def test_precisions_of_other_processors_are_skipped(fakes, monkeypatch):
    monkeypatch.setattr(competitors, "choose_precision", lambda asked: FLOAT32)
    entering = tuple(Competitor(OPENVINO, precision, fakes.same, ()) for precision in (FLOAT32, BFLOAT16))
    monkeypatch.setattr(contest, "COMPETITORS", entering)
    found = contest.contest(dr.plan("resnet_v1_18"), 33, 1, runs=1, burn_in=0)
    assert found.skipped == {"openvino bfloat16": "this processor does not multiply bfloat16 numbers"}


STOPPED = """
if __name__ == "__main__":  # other processes import this, too
    import sys
    import fakes
    from tools import cli
    from tools.benchmarking import contest
    from tools.benchmarking.competitors import Competitor
    contest.COMPETITORS = tuple(Competitor(name, "float32", fakes.slow, ()) for name in ("openvino", "keras"))
    sys.exit(cli.main(["benchmark", "--versus", "keras", "--batches", "100000", "--json", sys.argv[1]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_its_finished_rounds(number, fakes, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "TMPDIR": str(tmp_path)}
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    command = [sys.executable, script, tmp_path / "b.json"]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    turns = tmp_path / "turns"
    try:
        deadline = time.monotonic() + 120
        while not (turns.exists() and len(turns.read_text().split()) > 20):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, number)  # as a terminal does: the children get it, too
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, errors
    figures = json.loads((tmp_path / "b.json").read_text())
    assert figures["stopped"]
    assert figures["rounds"] > 3
    assert not figures["failed"]
    for timing in figures["timings"]:
        assert len(timing["seconds"]) == figures["rounds"]
        assert timing["peak_memory_bytes"] > 2**20
    assert (
        f"stopped; these are the figures of what was finished, {figures['rounds']} rounds of the networks" in printed.decode()
    )
    assert "ours (openvino, float32) is " in printed.decode()
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("tmp")]


def test_a_round_that_is_cut_short_is_dropped():
    timings, done = [Timing("one", 0.0), Timing("two", 0.0)], []
    alternate([(timing, lambda: done.append(1)) for timing in timings], 5, 1, stopped=lambda: len(done) >= 7)
    assert [len(timing.seconds) for timing in timings] == [2, 2]


@pytest.mark.parametrize("error", [2e-3, np.nan, np.inf])
def test_a_competitor_with_other_results_is_refused(error):
    lowered = dataclasses.replace(COMPETITORS[0], precision="bfloat16")
    assert contest.check_error(COMPETITORS[0], 1e-4) == 1e-4
    with pytest.raises(InputError, match="its time means nothing"):
        contest.check_error(COMPETITORS[0], error)
    assert contest.check_error(lowered, 0.2) == 0.2
    assert contest.check_error(dataclasses.replace(COMPETITORS[0], precision=INT8), 2.0) == 2.0


# --------------------------------------------------------------------------------------------------------------------
# Processes, limits, mistakes


def test_a_process_is_suspended_between_calls_and_reports_its_end(fakes):
    with Process(fakes.Mortal) as process:
        status = Path(f"/proc/{process.call('pid')}/status")
        if status.exists():
            deadline = time.monotonic() + 5
            while "State:\tT" not in status.read_text():
                assert time.monotonic() < deadline, "it runs while nobody asks"
        with pytest.raises(RuntimeError, match="ended with code 7: last words"):
            process.call("die")
    assert not status.exists()


def test_onednn_verbose_output_is_parsed():
    lines = [
        "onednn_verbose,v1,info,oneDNN v3.7.1 (commit 1)",
        "onednn_verbose,v1,primitive,exec,cpu,convolution,brgconv_1x1:avx512_core,forward,src:f32::blocked:acdb::f0,,a,mb1,1.5",
        "onednn_verbose,primitive,exec,cpu,convolution,brgconv_1x1:avx512_core,forward,src:f32::blocked:acdb::f0,,a,mb1,0.5",
        "onednn_verbose,v1,primitive,create:cache_miss,cpu,convolution,brgconv_1x1:avx512_core,forward,src:f32,,a,mb1,9",
        "onednn_verbose,exec,cpu,pooling,jit:avx512_core,forward,src:f32,,alg:pooling_max,mb1,3",
        "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core,undef,src:f32,,,2x2:2x2,0.25",
        "something that somebody else printed, exec, cpu",
        "",
    ]
    found = roofline.operations(lines)
    assert [(one.kind, one.count, one.milliseconds) for one in found] == [
        ("pooling", 1, 3.0), ("convolution", 2, 2.0), ("matmul", 1, 0.25),
    ]  # fmt: skip
    assert roofline.Profile(1.0, found).convolution_seconds == pytest.approx(0.00225)


def test_limits_are_compared_with_the_rounds_in_which_they_were_measured():
    limit = roofline.Limit([0, 2], [[0.1, 0.2], [0.4]], [roofline.Profile(1.0, ())] * 2)
    figures = limit.as_dict({TENSORFLOW: Timing(TENSORFLOW, 1.0, [0.5, 9.0, 0.8])}, 2048**3)
    assert figures["least_seconds"] == pytest.approx(0.25)
    assert figures["ours / least"] == {TENSORFLOW: pytest.approx(3.5)}  # of 0.5 / 0.1 and 0.8 / 0.4
    assert "does not run its convolutions by oneDNN" in figures["onednn"]["skipped"]


@pytest.mark.parametrize("of_limits", [0.1, 1.0, 3.0])
def test_limits_take_a_fifth_of_the_time(of_limits):
    now, spent = 0.0, 0.0

    def measure():
        nonlocal now, spent
        now, spent = now + of_limits, spent + of_limits

    budget, measured = roofline.Budget(clock=lambda: now), []
    for number in range(30):
        now += 1.0  # of all others
        if budget.allows():
            budget.spend(measure)
            measured.append(number)
    assert measured[0] == 0
    assert spent <= now / 5
    assert spent + of_limits > (now + of_limits) / 5 or len(measured) == 30


def test_verb_lists_every_competitor_that_is_not_always_there():
    assert verb.NETWORKS == competitors.NAMES
    assert not {*competitors.USUAL} & {*verb.NETWORKS}
    labels = [one.label for one in COMPETITORS]
    assert len(labels) == len({*labels})
    assert {one.precision for one in COMPETITORS} == {*PRECISIONS}
    assert {one.name for one in COMPETITORS if one.name.endswith(INT8)} == {
        one.name for one in COMPETITORS if one.precision == INT8
    }


@pytest.mark.parametrize(
    ("name", "stride", "there"),
    [
        ("resnet_v1_5_152", 16, True), ("resnet_v1_5_18", 32, True), ("resnet_v1_5_18", 16, False),
        ("resnet_v1_5_50", 4, False), ("resnet_v2_152", 16, False),
    ],
)  # fmt: skip
def test_torchvision_takes_part_where_it_has_the_network(name, stride, there):
    absent = competitors.torchvision_absence(dr.plan(name, stride))
    assert absent == (None if there else f"it has no {name} at output_stride {stride}")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_kept_figures_lie_in_the_folder_of_their_processor_and_can_be_drawn(path):
    figures = json.loads(path.read_text())
    assert path.parent.name == hardware.short_name(figures["machine"]["processor"], figures["machine"]["flags"])
    pytest.importorskip("matplotlib")
    assert chart.draw(figures)[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("processor", "flags", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", ["avx2", "avx512f", "amx_int8"], "intel-xeon-platinum-8481c-amx"),
        ("AMD EPYC", ["avx2", "avx512f", "avx512_bf16", "avx512_vnni"], "amd-epyc-avx512-bf16"),
        ("arm", [], "arm"),
    ],
)
def test_processors_have_short_names(processor, flags, name):
    assert hardware.short_name(processor, flags) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "resnet_v1_18", "--versus", "slim"), "tf_slim.nets has no resnet_v1_18 to compare with"),
        (("--model", "resnet_v2_200", "--versus", "timm"), "timm has no resnet_v2_200 at output_stride 16 to compare with"),
        (("--versus", "extract", "--size", 64), "size must be 32n+1 pixels"),
        (("--size", 0), "--size must be a positive integer"),
        (("--json", "{file}/b.json"), "cannot be written to"),
        (("--chart", "{file}/b.png"), "cannot be written to"),
        (("--json", "{folder}"), "is a folder"),
    ],
)
def test_mistakes_are_refused_before_any_work(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(chart, "check", lambda: None)
    monkeypatch.setattr(contest, "contest", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "file").touch()
    words = [str(option).format(file=tmp_path / "file", folder=tmp_path) for option in options]
    code, _, err = run(capsys, "benchmark", *words)
    assert (code, message in err) == (1, True), err


def test_unknown_competitors_and_missing_matplotlib_are_refused(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        run(capsys, "benchmark", "--versus", "tensorrt")
    assert "invalid choice: 'tensorrt'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(contest, "contest", lambda *_, **__: pytest.fail("it began"))
    code, _, err = run(capsys, "benchmark", "--chart", "b.png")
    assert (code, err) == (
        1,
        "error: --chart needs matplotlib, which is not installed: pip install matplotlib, or leave --chart out.\n",
    )


def test_the_keras_network_has_the_plans_parameters():
    plan = dr.plan("resnet_v2_50", output_stride=16)
    network = keras_network(plan, 21, 65)
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert trained == plan.parameter_count + (plan.depth + 1) * 21
    assert network.layers[-2].output.shape[1:3] == plan.feature_size(65)


def test_training_steps_are_timed():
    plan = dr.plan([("block1", [(8, 4, 1), (8, 4, 2)])], output_stride=8, scope="tiny", kind="bottleneck_v2")
    timings = training_timings(plan, crop=33, batch=2, steps=1, runs=1)
    assert [timing.name for timing in timings] == ["dense_resnet", "Keras fit", "dense_resnet, bfloat16"]
