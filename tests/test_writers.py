"""Where the numbers of a run go, what a crash leaves there, and what a failing tracker may do."""

import json
import os
import struct
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import durable, memory, writers

REPORTS = {10: {"loss": 0.1, "kl_per_axis": np.array([1.0, 2.0])}, 20: {"loss": 0.2}, 30: {"loss": 0.3}}


def strict(text):
    """JSON as the standard has it, without Python's NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def write_all(writer, steps=(10, 20, 30)):
    for step in steps:
        writer.write(step, REPORTS[step])


def record(path, steps=(10, 20, 30)):
    writer = writers.JsonLines(path)
    write_all(writer, steps)
    writer.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, 0.1),
        (7, 7),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int64(2**40), 2**40),
        (np.array([True, False]), [True, False]),
        (np.arange(6.0).reshape(2, 3), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        (np.array([1e-300, 5e-324, -0.0]), [1e-300, 5e-324, -0.0]),
        (np.array([[np.nan, 1.0], [np.inf, -np.inf]]), [[None, 1.0], [None, None]]),
        (float("nan"), None),
        (lambda: jnp.array([0.5, 1.5], jnp.bfloat16), [0.5, 1.5]),
        (np.zeros((0,)), []),
    ],
)
def test_a_line_holds_the_very_numbers_and_is_valid_json(tmp_path, value, expected):
    writer = writers.JsonLines(tmp_path / "m.jsonl")
    writer.write(np.int64(3), {"value": value() if callable(value) else value})
    # Before it is closed: a run that is killed has its reports.
    assert repr(strict((tmp_path / "m.jsonl").read_text())) == repr({"step": 3, "value": expected})
    assert writers.read_json_lines(tmp_path / "m.jsonl") == [{"step": 3, "value": expected}]
    writer.close()


def test_wherever_a_crash_cut_the_file_a_resumed_run_makes_it_whole(tmp_path):
    whole = record(tmp_path / "whole.jsonl")
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "m.jsonl"
    # A checkpoint of step 10 follows its report.
    for cut in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:cut])
        writer = writers.JsonLines(path, resume_step=10)
        write_all(writer, (20, 30))
        writer.close()
        assert path.read_bytes() == whole, cut
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.jsonl", "whole.jsonl"]


def test_an_unfinished_last_line_is_not_read_and_nothing_is_lost_with_it(tmp_path):
    whole = record(tmp_path / "m.jsonl", (10, 20))
    for text, steps in [(whole[:-1], [10, 20]), (whole[:-2], [10]), (whole + b'{"step"', [10, 20]), (b"", [])]:
        (tmp_path / "m.jsonl").write_bytes(text)
        assert [each["step"] for each in writers.read_json_lines(tmp_path / "m.jsonl")] == steps


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"\x00\x00", b'\xff{"step": 5}', b"[1]", b"{}", b'{"step": true}', b'{"step": 1.0}', b"[" * 100_000],
)
def test_a_damaged_line_is_named_and_the_file_left_alone(tmp_path, line):
    path = tmp_path / "m.jsonl"
    content = b'{"step": 1}\n' + line + b'\n{"step": 2}\n'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.jsonl is damaged in line 2: "):
        writers.JsonLines(path, resume_step=1)
    with pytest.raises(ValueError, match=r"m\.jsonl is damaged in line 2: "):
        writers.read_json_lines(path)
    assert path.read_bytes() == content


def test_dropping_lines_happens_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    content = record(path)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writers.JsonLines(path, resume_step=10)
    assert path.read_bytes() == content


def test_a_new_run_never_writes_into_the_record_of_another(tmp_path):
    content = record(tmp_path / "m.jsonl")
    with pytest.raises(FileExistsError, match="give resume_step"):
        writers.JsonLines(tmp_path / "m.jsonl")
    assert (tmp_path / "m.jsonl").read_bytes() == content
    # A run that crashed before its first report has no file.
    writers.JsonLines(tmp_path / "new.jsonl", resume_step=0).close()
    assert (tmp_path / "new.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("step", "values", "error", "says"),
    [
        (1, {"step": 2}, ValueError, "values must not hold a step"),
        (1, {"a": "text"}, TypeError, r"values\['a'\] must be an array; got str"),
        (1, {"a": None}, TypeError, r"values\['a'\] must be an array; got NoneType"),
        (1, {"a": np.array(1j)}, TypeError, r"values\['a'\] must hold real numbers; got dtype complex128"),
        (-1, {}, ValueError, "step must be at least 0"),
        (1.5, {}, TypeError, "step must be an integer"),
    ],
)
@pytest.mark.parametrize("make", [writers.JsonLines, writers.TensorBoard])
def test_what_is_no_report_is_refused_and_leaves_nothing(tmp_path, make, step, values, error, says):
    writer = make(tmp_path / "m")
    file = tmp_path / "m" if make is writers.JsonLines else next((tmp_path / "m").iterdir())
    before = file.read_bytes()
    with pytest.raises(error, match=says):
        writer.write(step, values)
    writer.close()
    assert file.read_bytes() == before


def events(folder):
    """The events of a folder, in TensorBoard's order: the length, its checksum, the event, its checksum."""
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            assert len(data) >= 16 + length, "an unfinished event"
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def shown(folder):
    """What TensorBoard shows: the start of a session hides what came before it and is as late."""
    from tensorboardX.proto.event_pb2 import SessionLog

    points = []
    for event in events(folder):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            points = [point for point in points if point[0] < event.step]
        points += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return points


def test_tensorboard_gets_each_element_as_soon_as_it_is_written(tmp_path):
    writer = writers.TensorBoard(tmp_path / "new" / "folder")
    writer.write(5, {"loss": 0.1, "kl": np.array([[1.0, np.inf], [3, 4]]), "units": 7, "none": np.zeros(0)})
    expected = [
        ("loss", float(np.float32(0.1))),
        ("kl/0/0", 1.0),
        ("kl/0/1", np.inf),
        ("kl/1/0", 3.0),
        ("kl/1/1", 4.0),
        ("units", 7.0),
    ]
    assert shown(tmp_path / "new" / "folder") == [(5, *each) for each in expected]
    writer.write(6, {"loss": float("nan")})
    step, tag, value = shown(tmp_path / "new" / "folder")[-1]
    assert (step, tag) == (6, "loss")
    assert np.isnan(value)
    writer.close()
    assert next(events(tmp_path / "new" / "folder")).file_version == "brain.Event:2"


def test_tensorboard_shows_a_resumed_run_as_one_without_a_crash(tmp_path, monkeypatch):
    # Within one second, which is all that tells the names of the files apart otherwise.
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    write_all(whole := writers.TensorBoard(tmp_path / "whole"))
    whole.close()
    write_all(first := writers.TensorBoard(tmp_path / "resumed"))
    first.close()
    write_all(second := writers.TensorBoard(tmp_path / "resumed", resume_step=20), (30,))
    assert shown(tmp_path / "resumed") == shown(tmp_path / "whole")
    write_all(third := writers.TensorBoard(tmp_path / "resumed", resume_step=10), (20,))
    assert shown(tmp_path / "resumed") == [each for each in shown(tmp_path / "whole") if each[0] <= 20]
    second.close()
    third.close()


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (3, 3), (4, 2), (6, 4)])
def test_tensorboard_gets_a_picture_as_its_file_is(tmp_path, color, channels):
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 300, 5, 8, color, 0, 0, 0) + b"the rest"
    (tmp_path / "a.png").write_bytes(content)
    writer = writers.TensorBoard(tmp_path / "board")
    writer.write_image("samples", tmp_path / "a.png", 7)
    *_, event = events(tmp_path / "board")
    writer.close()
    (value,) = event.summary.value
    image = value.image
    assert (event.step, value.tag, image.width, image.height, image.colorspace) == (7, "samples", 300, 5, channels)
    assert image.encoded_image_string == content


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n" + b"\x07" * 40]
)
def test_what_is_no_png_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    writer = writers.TensorBoard(tmp_path / "board")
    with pytest.raises(ValueError, match=r"a\.png must be a PNG file"):
        writer.write_image("samples", tmp_path / "a.png", 7)
    writer.close()


@pytest.fixture
def wandb(monkeypatch):
    """wandb 0.31 as far as it is used: each run's reports by id, none for a step that has passed."""

    class Run:
        def __init__(self, module, id, resume):
            assert (resume == "allow") == (id in module.runs)
            self.id = id or f"id{len(module.runs)}"
            self._reports = module.runs.setdefault(self.id, [])
            self.step = self._reports[-1][0] + 1 if self._reports else 0
            self.finished = False

        def log(self, data, step=None, commit=None):
            assert step >= self.step, "W&B drops this report"
            assert commit
            assert not self.finished
            assert all(type(value) in (float, Image) for value in data.values())
            self._reports.append((step, data))
            self.step = step + 1

        def finish(self, exit_code=None):
            self.finished = True

    class Image:
        def __init__(self, data_or_path, mode=None, caption=None):
            self.path = data_or_path

    def init(
        entity=None,
        project=None,
        dir=None,
        id=None,
        name=None,
        notes=None,
        tags=None,
        config=None,
        allow_val_change=None,
        mode=None,
        resume=None,
        settings=None,
    ):
        assert mode is None, "WANDB_MODE says it"
        run = Run(module, id, resume)
        module.inits.append(
            {"project": project, "name": name, "config": config, "dir": dir, "allow_val_change": allow_val_change}
        )
        return run

    module = types.ModuleType("wandb")
    module.runs, module.inits, module.init, module.Image = {}, [], init, Image
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return module


def test_wandb_gets_every_report_once_also_from_a_run_that_goes_on(tmp_path, wandb, monkeypatch):
    settings = {"settings": {"epochs": 3}}
    writer = writers.WeightsAndBiases("project", "name", settings, tmp_path)
    assert wandb.inits[-1] == {
        "project": "project",
        "name": "name",
        "config": settings,
        "dir": str(tmp_path),
        "allow_val_change": True,
    }
    write_all(writer, (10, 20))
    # It crashed here, and goes on from the checkpoint of step 10.
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    writer = writers.WeightsAndBiases("project", "name", settings, tmp_path)
    assert wandb.inits[-1]["dir"] == "elsewhere"
    write_all(writer, (20, 30))
    writer.write_image("samples", tmp_path / "a.png", 30)
    writer.close()
    assert writer._run.finished
    (reports,) = wandb.runs.values()
    assert reports[:-1] == [
        (10, {"loss": 0.1, "kl_per_axis/0": 1.0, "kl_per_axis/1": 2.0}),
        (20, {"loss": 0.2}),
        (30, {"loss": 0.3}),
    ]
    assert (reports[-1][0], reports[-1][1]["samples"].path) == (31, str(tmp_path / "a.png"))
    # Another folder is another run.
    writers.WeightsAndBiases("project", "name", settings, tmp_path.parent)
    (tmp_path.parent / "wandb.json").unlink()
    assert len(wandb.runs) == 2


@pytest.fixture
def mlflow(monkeypatch):
    """mlflow 3.17 as far as it is used."""
    module = types.ModuleType("mlflow")
    module.runs, module.active, module.experiment = {}, None, None

    def set_experiment(experiment_name=None, experiment_id=None, trace_location=None):
        module.experiment = experiment_name

    def start_run(run_id=None, experiment_id=None, run_name=None, nested=False, tags=None):
        assert module.active is None
        if run_id is None:
            run_id = f"id{len(module.runs)}"
            module.runs[run_id] = {"experiment": module.experiment, "name": run_name, "reports": [], "files": []}
        module.runs[run_id]["status"] = "RUNNING"
        module.active = run_id
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def log_params(params, synchronous=None, run_id=None):
        assert module.runs[run_id].setdefault("params", params) == params, "MLflow refuses changed settings"

    def log_metrics(metrics, step=None, synchronous=None, run_id=None, timestamp=None, model_id=None, dataset=None):
        assert all(type(value) is float for value in metrics.values())
        assert type(step) is int
        module.runs[run_id]["reports"].append((step, metrics))

    def log_artifact(local_path, artifact_path=None, run_id=None):
        module.runs[run_id]["files"].append(local_path)

    def end_run(status="FINISHED"):
        module.runs[module.active]["status"] = status
        module.active = None

    for function in (set_experiment, start_run, log_params, log_metrics, log_artifact, end_run):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def test_mlflow_gets_the_reports_in_one_run_also_from_a_run_that_goes_on(tmp_path, mlflow):
    writer = writers.MLflow(
        "experiment", "name", {"name": "vae", "settings": {"epochs": 3, "deep": {"a": (1,)}}}, tmp_path
    )
    write_all(writer, (10,))
    writer.close()
    writer = writers.MLflow("experiment", "name", {"name": "vae", "settings": {"epochs": 5}}, tmp_path)
    write_all(writer, (20,))
    writer.write_image("samples", tmp_path / "a.png", 20)
    writer.close()
    assert mlflow.runs == {
        "id0": {
            "experiment": "experiment",
            "name": "name",
            "params": {"name": "vae", "settings.epochs": 3, "settings.deep.a": (1,)},
            "reports": [(10, {"loss": 0.1, "kl_per_axis/0": 1.0, "kl_per_axis/1": 2.0}), (20, {"loss": 0.2})],
            "files": [str(tmp_path / "a.png")],
            "status": "FINISHED",
        }
    }


MAKE = {
    "wandb": lambda folder: writers.WeightsAndBiases("project", "name", {}, folder),
    "mlflow": lambda folder: writers.MLflow("experiment", "name", {}, folder),
    "tensorboardX": lambda folder: writers.TensorBoard(folder),
}


@pytest.mark.parametrize("package", MAKE)
def test_a_tracker_that_is_missing_says_how_to_install_it(tmp_path, monkeypatch, package):
    # Modules of a package that is there are found in sys.modules without it.
    for name in [name for name in sys.modules if name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"^{package} is not installed: pip install {package}$"):
        MAKE[package](tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_misses_a_package_itself_says_so(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        MAKE["wandb"](tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": 3}'])
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_damaged_id_is_named_and_no_new_run_is_started(tmp_path, wandb, mlflow, name, content):
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(ValueError, match=rf"{name}\.json is damaged"):
        MAKE[name](tmp_path)
    assert not wandb.runs
    assert not mlflow.runs


class Tracker:
    """Fails from the report of step `fails_at` on."""

    def __init__(self, fails_at=1000):
        self.fails_at, self.reports, self.pictures, self.closed = fails_at, [], [], 0

    def write(self, step, values):
        self.reports.append(step)
        if step >= self.fails_at:
            raise RuntimeError("the network is gone\nand a traceback")

    def write_image(self, name, path, step):
        self.pictures.append((name, path, step))

    def close(self):
        self.closed += 1
        if self.fails_at < 1000:
            raise RuntimeError("still gone")


def test_a_failing_tracker_is_named_once_and_the_others_go_on(tmp_path, capsys):
    bad, good = Tracker(fails_at=20), Tracker()
    several = writers.Several(bad, writers.JsonLines(tmp_path / "m.jsonl"), good)
    write_all(several)
    several.write_image("samples", "a.png", 30)
    several.close()
    assert capsys.readouterr().err == "Tracker gets nothing more of this run: RuntimeError: the network is gone\n"
    assert [each["step"] for each in writers.read_json_lines(tmp_path / "m.jsonl")] == [10, 20, 30]
    assert (bad.reports, bad.pictures, bad.closed) == ([10, 20], [], 1)
    assert (good.reports, good.pictures, good.closed) == ([10, 20, 30], [("samples", "a.png", 30)], 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_ends_the_run_at_its_record_but_not_at_tensorboard(tmp_path, capsys):
    lines, board, tracker = writers.JsonLines(tmp_path / "m.jsonl"), writers.TensorBoard(tmp_path / "board"), Tracker()
    several = writers.Several(lines, board, tracker)
    records = board._file._py_recordio_writer
    records._writer.close()
    records._writer = full = Path("/dev/full").open("wb")  # noqa: SIM115
    write_all(several, (10,))
    assert capsys.readouterr().err.startswith("TensorBoard gets nothing more of this run: OSError: [Errno 28]")
    lines._file.close()
    lines._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        write_all(several, (20,))
    assert tracker.reports == [10, 20]
    with pytest.raises(OSError, match="No space left"):
        several.close()
    assert tracker.closed == 1
    with pytest.raises(OSError, match="No space left"):
        full.close()


# Bytes that this process holds and the one below does not, and that it holds for a while.
OURS, THEIRS = 2**29, 2**27
ALONE = pytest.mark.slow("a process of its own")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What a process of its own finds out, step by step, with a torch that says when it is loaded."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "torch.py").write_text("loaded = True")
    code = f"""
import json, sys
sys.path.insert(0, {str(folder)!r})
import vaejax.writers, vaejax.memory
import jax, numpy as np
from vaejax import writers
from vaejax.memory import peak_memory

found = {{"trackers": sorted({{"tensorboardX", "wandb", "mlflow", "google"}} & set(sys.modules))}}
found["backends"] = jax._src.xla_bridge.backends_are_initialized()
before = peak_memory().get("host")
block = np.ones({THEIRS // 8})
del block
found["peaks"] = before, peak_memory().get("host")
for name in "ab":
    writers.TensorBoard(f"{folder}/{{name}}").close()
found["torch before"] = "torch" in sys.modules
import torch
writers.TensorBoard("{folder}/c").close()
found["torch after"] = sys.modules["torch"] is torch and torch.loaded
print(json.dumps(found))
"""
    held = np.ones(OURS // 8)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert held.nbytes == OURS
    return json.loads(done.stdout)


@ALONE
def test_importing_the_writers_loads_no_tracker_and_starts_no_backend(alone):
    assert alone["trackers"] == []
    assert not alone["backends"]


@ALONE
def test_tensorboard_does_not_wait_for_torch_which_can_be_loaded_later(alone):
    assert not alone["torch before"]
    assert alone["torch after"]


@ALONE
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_the_peak_of_the_host_is_that_of_this_process_in_bytes(alone):
    before, after = alone["peaks"]
    if sys.platform == "linux":
        assert before < OURS
    # A peak stays after the bytes have been given back.
    assert 0.8 * THEIRS < after - before < 1.2 * THEIRS


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_other_systems_tell_the_peak_in_units_of_their_own(monkeypatch, platform, unit):
    usage = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    assert memory.peak_memory()["host"] == 5000 * unit
    monkeypatch.setattr(sys, "platform", "win32")
    assert "host" not in memory.peak_memory()


def test_the_peak_of_the_devices_is_that_of_the_fullest_where_they_tell(monkeypatch):
    def device(stats):
        return types.SimpleNamespace(memory_stats=lambda: stats)

    told = [
        device({"peak_bytes_in_use": 5, "bytes_in_use": 99}),
        device(None),
        device({"peak_bytes_in_use": 9}),
        device({}),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: told)
    assert memory.peak_memory()["device"] == 9
    monkeypatch.setattr(jax, "local_devices", lambda: [device(None), device({})])
    assert "device" not in memory.peak_memory()


def inode(descriptor):
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size


def test_what_is_synced_is_on_the_disk(tmp_path, monkeypatch, capsys):
    """The file with all lines in it, and before that the folder that says that it is there."""
    synced, path = [], tmp_path / "m.jsonl"
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(inode(descriptor)))
    lines, other = writers.JsonLines(path), Recorder()
    assert [number for number, _ in synced] == [tmp_path.stat().st_ino]
    several = writers.Several(other, lines)
    for step in (10, 20):
        several.write(step, REPORTS[step])
        several.sync()
        assert synced[-1] == (path.stat().st_ino, path.stat().st_size)
    assert len(synced) == 3
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    several.close()
    with pytest.raises(ValueError, match="closed file"):
        lines.sync()


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_folder_after(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((inode(descriptor)[0], path.read_bytes())))
    durable.write_durably(path, b"new and longer")
    assert seen == [(path.stat().st_ino, b"old"), (tmp_path.stat().st_ino, b"new and longer")]
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


class Recorder:
    """A writer that can do no more than it must."""

    def write(self, step, values):
        pass

    def close(self):
        pass
