"""Checkpoints: every bit comes back, and whatever is not as it was written is named before it is read."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore

from tests.typed_keys import as_numbers
from vaejax import durable, training

OPTIMIZER = optax.adam(0.1)


def start(width=3, optimizer=OPTIMIZER, extra=()):
    params = {"layers": [{"w": np.arange(2.0 * width, dtype=np.float32).reshape(2, width)}, {"w": np.float32(0.1)}]}
    return training.init_state(jax.random.key(7), params, optimizer, extra, with_ema=True)


def bits(tree):
    return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in jax.tree.leaves(as_numbers(tree))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint, to be copied before it is touched."""
    folder = tmp_path_factory.mktemp("saved") / "000000007"
    training.save_checkpoint(folder, start(), {"cost": 1.5})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / saved.name)


def files_of(folder):
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def seal_again(folder, **changes):
    """A seal that fits what is there now, as somebody would make it who means harm."""
    state = folder / "state"
    files = {f"state/{name}": [0, ""] for name in files_of(state)}
    for name in files:
        content = (folder / name).read_bytes()
        files[name] = [len(content), hashlib.sha256(content).hexdigest()]
    content = {"files": files, "about": {}} | changes
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "seal.json").write_text(json.dumps({"content": content, "sha256": digest}))


def test_every_bit_comes_back(tmp_path):
    """Of all kinds of numbers, those that are not finite and -0.0 among them."""
    odd = jnp.array([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-45, 1 / 3])
    tree = {
        "odd": odd, "half": odd.astype(jnp.bfloat16), "bytes": jnp.arange(256, dtype=jnp.uint8), "flag": jnp.array([True, False]),
        "none": (), "key": jax.random.split(jax.random.key(3), 2),
        "state": start(extra={"count": jnp.int32(-5)}),
    }  # fmt: skip
    training.save_checkpoint(tmp_path / "a", tree)
    loaded = training.load_checkpoint(tmp_path / "a", jax.eval_shape(lambda: tree))
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert bits(loaded) == bits(tree)
    # The noise that is drawn next is the same.
    draw = lambda tree: jax.random.normal(tree["state"].key, (3,))
    chex.assert_trees_all_equal(draw(loaded), draw(tree))


@pytest.mark.slow("another type")
def test_double_precision_comes_back(tmp_path, x64):
    tree = {"third": jnp.arange(3) / 3, "large": jnp.int64(2**40 + 1)}
    training.save_checkpoint(tmp_path / "a", tree)
    loaded = training.load_checkpoint(tmp_path / "a", jax.eval_shape(lambda: tree))
    assert bits(loaded) == bits(tree)
    assert loaded["third"].dtype == jnp.float64


def test_what_else_is_to_be_remembered_comes_back(tmp_path):
    about = {"cost": 0.1 + 0.2, "settings": {"epochs": 3, "sizes": [1, 2]}, "name": "Ångström"}
    training.save_checkpoint(tmp_path / "a", start(), about)
    assert training.read_about(tmp_path / "a") == about


def test_a_checkpoint_is_never_overwritten(saved):
    before = {name: (saved / name).read_bytes() for name in files_of(saved)}
    with pytest.raises(FileExistsError, match="000000007 exists: a checkpoint never overwrites another"):
        training.save_checkpoint(saved, start(width=4))
    assert before == {name: (saved / name).read_bytes() for name in files_of(saved)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: start(width=4), r"params.layers.0.w is float32\[2, 3\] there and float32\[2, 4\] here"),
        (lambda: start(optimizer=optax.sgd(0.1)), "opt_state.0.count is int32.* there and missing here"),
        (lambda: start(optimizer=optax.adamw(0.1, mu_dtype=jnp.bfloat16)), r"opt_state.0.mu.layers.0.w is float32.* bfloat16"),
        (lambda: start(extra=jnp.zeros(3)), r"extra is missing there and float32\[3\] here"),
        (lambda: start()._replace(ema=()), "ema.layers.0.w is .* there and missing here"),
        (lambda: start()._replace(key=jax.random.key(0, impl="rbg")), r"key is uint32\[2\] there and uint32\[4\] here"),
    ],
)  # fmt: skip
def test_the_first_leaf_of_another_model_is_named(saved, other, message):
    with pytest.raises(ValueError, match=f"000000007 belongs to another model: {message}") as caught:
        training.load_checkpoint(saved, jax.eval_shape(other))
    assert not isinstance(caught.value, training.DamagedCheckpoint)


def test_what_is_no_checkpoint_is_named(tmp_path, copy):
    with pytest.raises(FileNotFoundError, match="nothing is no checkpoint: there is no such folder"):
        training.load_checkpoint(tmp_path / "nothing", start())
    (copy / "seal.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"{copy} is no checkpoint, or an unfinished one: it has no seal.json"):
        training.load_checkpoint(copy, start())


def test_the_seal_covers_every_file(saved):
    sealed = json.loads((saved / "seal.json").read_text())["content"]["files"]
    assert {str(name) for name in files_of(saved)} == {*sealed, "seal.json"}
    assert len(sealed) > 5


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_or_a_missing_end_is_named_in_every_file(saved, tmp_path):
    like = jax.eval_shape(start)
    for number, name in enumerate(files_of(saved)):
        size = (saved / name).stat().st_size
        for kind, damage in {
            "first": lambda file: flip(file, 0),
            "middle": lambda file, size=size: flip(file, size // 2),
            "last": lambda file: flip(file, -1),
            "cut": lambda file, size=size: os.truncate(file, size // 2),
            "empty": lambda file: os.truncate(file, 0),
            "longer": lambda file, size=size: os.truncate(file, size + 1),
        }.items():
            damaged = shutil.copytree(saved, tmp_path / f"{number}{kind}")
            damage(damaged / name)
            with pytest.raises(training.DamagedCheckpoint, match=f"{damaged / name} is damaged: "):
                training.load_checkpoint(damaged, like)
        if name.name != "seal.json":
            (damaged / name).unlink()
            with pytest.raises(training.DamagedCheckpoint, match=f"{damaged / name} is missing from the checkpoint"):
                training.load_checkpoint(damaged, like)


@pytest.mark.parametrize("name", ["../secret", "state/../../secret", "/etc/hostname"])
def test_a_seal_may_not_lead_out_of_the_checkpoint(copy, name):
    (copy.parent / "secret").write_text("secret")
    seal_again(copy, files={name: [6, hashlib.sha256(b"secret").hexdigest()]})
    with pytest.raises(training.DamagedCheckpoint, match=f"seal.json is damaged: {name} is outside the checkpoint"):
        training.load_checkpoint(copy, start())


@pytest.mark.parametrize(
    "content", [5, [], {}, {"files": []}, {"files": {}}, {"files": {"state/_METADATA": 5}, "about": {}}]
)
def test_a_seal_that_says_nothing_sensible_is_damaged(copy, content):
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    for text in (json.dumps({"content": content, "sha256": digest}), json.dumps(content), "[" * 100_000):
        (copy / "seal.json").write_text(text)
        with pytest.raises(training.DamagedCheckpoint, match=r"seal\.json is damaged: "):
            training.load_checkpoint(copy, start())


def test_a_shape_that_no_memory_holds_is_refused_by_its_name(copy):
    """An array of 10^18 numbers of which none is stored: what is there is compared before anything is made."""
    where = {"driver": "ocdbt", "base": f"file://{copy}/state/", "path": "params.layers.0.w/"}
    header = {"shape": [10**9, 10**9], "chunks": [2, 3], "dtype": "<f4"}
    spec = {"driver": "zarr", "kvstore": where, "metadata": header}
    tensorstore.open(spec, create=True, delete_existing=True).result()
    seal_again(copy)
    with pytest.raises(
        ValueError, match=r"another model: params.layers.0.w is float32\[1000000000, 1000000000\] there and"
    ):
        training.load_checkpoint(copy, start())


def test_a_shape_that_is_only_claimed_makes_nothing(copy):
    metadata = copy / "state" / "_METADATA"
    text = metadata.read_text()
    assert '"write_shape": [2, 3]' in text
    metadata.write_text(text.replace('"write_shape": [2, 3]', f'"write_shape": [{10**9}, {10**9}]'))
    seal_again(copy)
    assert bits(training.load_checkpoint(copy, start())) == bits(start())


def test_nothing_is_unpickled(saved, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    assert bits(training.load_checkpoint(saved, start())) == bits(start())


def test_every_folder_is_on_the_disk_before_the_seal(tmp_path, monkeypatch):
    path, synced = tmp_path / "saves" / "a", []

    def note(each):
        if not (path / "seal.json").exists():
            synced.append(each)

    monkeypatch.setattr(durable, "to_disk", note)
    training.save_checkpoint(path, start())
    inside = [each for each in (path / "state").rglob("*") if each.is_dir()]
    assert inside
    assert {*inside, path / "state", path, path.parent} <= set(synced)
    assert {path / name for name in files_of(path) if name.name != "seal.json"} <= set(synced)


def test_what_is_to_be_remembered_is_what_json_makes_of_it(tmp_path):
    """Keys that are integers become text; a number of NumPy is refused before anything is written."""
    training.save_checkpoint(tmp_path / "a", start(), {1: {2: "b"}, "sizes": (10, 9)})
    assert bits(training.load_checkpoint(tmp_path / "a", start())) == bits(start())
    assert training.read_about(tmp_path / "a") == {"1": {"2": "b"}, "sizes": [10, 9]}
    with pytest.raises(TypeError, match=r"about must be what JSON can say: .*float32"):
        training.save_checkpoint(tmp_path / "b", start(), {"cost": np.float32(1.0)})
    with training.Checkpoints(tmp_path / "c") as saves:
        with pytest.raises(TypeError, match=r"about must be what JSON can say: .*float32"):
            saves.save(1, start(), {"cost": np.float32(1.0)})
        saves.save(2, start(), {3: 4})
    assert training.load_newest(tmp_path / "c", start())[1] == {"3": 4}
    assert {path.name for path in tmp_path.rglob("*") if path.name in ("b", "000000001")} == set()


def test_what_is_loaded_belongs_to_no_device(saved):
    """As arrays that were just made, a program on any devices takes it."""
    loaded = training.load_checkpoint(saved, start())
    assert not any(leaf.committed for leaf in jax.tree.leaves(loaded))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = training.load_checkpoint(saved, start(), lambda like: jax.tree.map(lambda leaf: here, like))
    assert all(leaf.committed for leaf in jax.tree.leaves(placed))


# The checkpoints of a run.


def save_all(folder, steps, costs=None, **options):
    with training.Checkpoints(folder, **options) as saves:
        for number, step in enumerate(steps):
            about = {} if costs is None else {"cost": costs[number]}
            saves.save(step, start()._replace(step=jnp.int32(step)), about)


def test_a_save_is_not_there_before_its_seal(tmp_path):
    with training.Checkpoints(tmp_path) as saves:
        saves.save(3, start())
        assert training.saved_steps(tmp_path) == []
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            training.load_newest(tmp_path, start())
        saves.checkpointer.wait_until_finished()
        # All is written, and not sealed.
        assert (tmp_path / "000000003" / "state").is_dir()
        assert training.saved_steps(tmp_path) == []
        saves.poll()
        assert training.saved_steps(tmp_path) == [3]
    loaded, _ = training.load_newest(tmp_path, start())
    assert bits(loaded) == bits(start())


def test_the_newest_are_kept_and_the_best(tmp_path):
    costs = [float("nan"), 1.0, 2.0, 3.0, 4.0, None]
    save_all(tmp_path, [10, 20, 30, 40, 50, 60], costs, keep=2)
    assert training.saved_steps(tmp_path) == [20, 50, 60]
    assert training.best_step(tmp_path) == 20
    # A better one takes its place, and of two that are as good the first stays.
    save_all(tmp_path, [70, 80, 90], [0.5, 0.5, 9.0], keep=1)
    assert training.saved_steps(tmp_path) == [70, 90]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000070", "000000090"]


def test_without_costs_the_newest_are_kept(tmp_path):
    save_all(tmp_path, [1, 2, 3], keep=1)
    assert training.saved_steps(tmp_path) == [3]
    assert training.best_step(tmp_path) is None


def test_a_step_that_is_there_stays_as_it_is_and_later_ones_can_be_dropped(tmp_path):
    save_all(tmp_path, [1, 2, 3], keep=3)
    with training.Checkpoints(tmp_path, keep=3) as saves:
        saves.save(2, start(width=4))
        saves.wait()
        saves.drop_after(2)
    assert training.saved_steps(tmp_path) == [1, 2]
    assert training.load_newest(tmp_path, start())[0].step == 2


def test_what_an_unfinished_save_left_is_removed(tmp_path):
    save_all(tmp_path, [1, 2])
    (tmp_path / "000000002" / "seal.json").unlink()
    (tmp_path / "notes").mkdir()
    assert training.load_newest(tmp_path, start())[0].step == 1
    with training.Checkpoints(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["000000001", "notes"]
    save_all(tmp_path, [2, 3])
    assert training.saved_steps(tmp_path) == [2, 3]
    assert (tmp_path / "notes").is_dir()


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path):
    save_all(tmp_path, [1, 2, 3], [1.0, 2.0, 3.0], keep=3)
    whole = {step: bits(start()._replace(step=jnp.int32(step))) for step in (1, 2, 3)}
    for step in (3, 2):
        damaged = tmp_path / f"{step:09d}" / "state" / "_METADATA"
        flip(damaged, 5)
        with pytest.warns(UserWarning, match="is damaged: .*; going back to the checkpoint before it") as warned:
            loaded, about = training.load_newest(tmp_path, start())
        assert [
            f"{each:09d}/state/_METADATA" in str(w.message)
            for each, w in zip(range(3, step - 1, -1), warned, strict=True)
        ]
        assert bits(loaded) == whole[step - 1]
        assert about == {"cost": step - 1}
    flip(tmp_path / "000000001" / "seal.json", 20)
    assert training.best_step(tmp_path) == 2
    with pytest.warns(UserWarning, match="going back"), pytest.raises(training.DamagedCheckpoint, match="000000003"):
        training.load_newest(tmp_path, start())


def test_another_models_checkpoint_is_not_passed_over(tmp_path):
    save_all(tmp_path, [1, 2])
    with pytest.raises(ValueError, match=r"000000002 belongs to another model: params\.layers\.0\.w"):
        training.load_newest(tmp_path, jax.eval_shape(lambda: start(width=4)))


def test_a_save_writes_from_arrays_of_its_own(tmp_path, monkeypatch):
    """On a CPU orbax writes in the background from the arrays that it gets, and a step takes those of the state."""
    if jax.default_backend() != "cpu":
        pytest.skip("elsewhere arrays are copied to the host in any case")
    state, handed = jax.device_put(start()), []
    with training.Checkpoints(tmp_path) as saves:
        save = saves.checkpointer.save
        monkeypatch.setattr(saves.checkpointer, "save", lambda path, tree: handed.append(tree) or save(path, tree))
        saves.save(1, state)
    places = [{leaf.unsafe_buffer_pointer() for leaf in arrays_of(tree)} for tree in (state, *handed)]
    assert [len(each) for each in places] == [len(arrays_of(state))] * 2
    assert places[0].isdisjoint(places[1])


def arrays_of(tree):
    """All arrays but typed keys, which have no place of their own."""
    return [leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]


@pytest.mark.slow("a race, three times")
def test_the_steps_after_a_save_do_not_reach_into_it(tmp_path):
    """A step takes the buffers of the state before it, which may still be being written."""
    optimizer = optax.sgd(1e-3)
    step = jax.jit(
        training.make_train_step(lambda params, key, batch: (jnp.sum(params**2), {}), optimizer), donate_argnums=0
    )
    state = training.init_state(jax.random.key(0), np.linspace(0.0, 1.0, 3_000_000, dtype=np.float32), optimizer)
    state, _ = step(state, None)
    for number in range(3):
        expected = np.array(state.params)
        with training.Checkpoints(tmp_path / f"{number}") as saves:
            saves.save(1, state)
            for _ in range(20):
                state, _ = step(state, None)
        loaded, _ = training.load_newest(tmp_path / f"{number}", state)
        np.testing.assert_array_equal(loaded.params, expected)


def test_a_file_that_cannot_grow_is_an_error_that_names_the_folder_and_spares_what_was_saved(tmp_path):
    """Files larger than a limit cannot be written, as on a full disk."""
    resource = pytest.importorskip("resource", reason="the system has no limits")
    # Noise, which does not become small when it is compressed.
    old, new = ({"w": np.random.default_rng(seed).normal(size=300_000).astype(np.float32)} for seed in range(2))
    with training.Checkpoints(tmp_path) as saves:
        saves.save(1, old)
        saves.wait()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        try:
            saves.save(2, new)
            with pytest.raises(OSError, match=f"the checkpoint {tmp_path}/000000002 could not be written: "):
                saves.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        loaded, _ = training.load_newest(tmp_path, old)
        np.testing.assert_array_equal(loaded["w"], old["w"])
        saves.save(4, new)
    assert training.saved_steps(tmp_path) == [1, 4]


@pytest.mark.slow("a process of its own, which also has to end")
def test_a_full_disk_is_an_error_that_names_the_folder_and_spares_what_was_saved(tmp_path):
    """Files larger than a limit cannot be written, as on a full disk."""
    code = """
import resource, sys
import jax, jax.numpy as jnp
from vaejax import training
folder, like = sys.argv[1], {"w": jnp.arange(300_000.0), "step": jnp.int32(1)}
saves = training.Checkpoints(folder)
saves.save(1, like)
saves.wait()
for limit, step in [(2**18, 2), (2**8, 3)]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for attempt in range(2):
        try:
            saves.save(step, {"w": jax.random.normal(jax.random.key(0), (300_000,)), "step": jnp.int32(step)})
            saves.wait()
            print("written")
        except OSError as error:
            print("refused", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
loaded, _ = training.load_newest(folder, like)
assert jnp.array_equal(loaded["w"], like["w"]), loaded
saves = training.Checkpoints(folder)
saves.save(4, loaded)
saves.wait()
print(training.saved_steps(folder))
try:
    training.save_checkpoint(folder + "/000000001/seal.json/5", loaded)
except OSError:
    # No thread is left that waits for minutes for a folder that cannot be.
    sys.exit()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "saves"], env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *refused, left = run.stdout.strip().splitlines()
    assert left == "[1, 4]"
    assert len(refused) == 4
    for line in refused:
        assert line.startswith(f"refused the checkpoint {tmp_path}/saves/00000000")
        assert "could not be written: " in line


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        training.Checkpoints(tmp_path, keep=0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=f"the checkpoint {tmp_path}/file/000000001 could not be written"):
        training.save_checkpoint(tmp_path / "file" / "000000001", start())
