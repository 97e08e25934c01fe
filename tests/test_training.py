import errno
import os
import zipfile

import numpy as np
import pytest

from minidl import Tensor, models, optim
from minidl.functional import cross_entropy
from minidl.training import load_weights, save_weights


def test_weights_come_back_bit_for_bit(tmp_path):
    state = models.cifar10_cnn().state_dict()
    path = save_weights(state, tmp_path / "new" / "folder" / "weights.npz")
    loaded = load_weights(path)
    assert list(loaded) == list(state)
    for name, array in state.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].tobytes() == array.tobytes()


def test_a_full_disk_keeps_the_older_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = save_weights({"w": np.ones(3)}, tmp_path / "weights.npz")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left"):
        save_weights({"w": np.zeros(3)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.npz"]
    np.testing.assert_array_equal(load_weights(path)["w"], np.ones(3))


def test_ctrl_c_while_saving_keeps_the_older_file(tmp_path, monkeypatch):
    path = save_weights({"w": np.ones(3)}, tmp_path / "weights.npz")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_weights({"w": np.zeros(3)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.npz"]


def test_saving_refuses_other_names_and_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"save_weights: got .*weights.pkl .* ending in \.npz"):
        save_weights({"w": np.ones(1)}, tmp_path / "weights.pkl")
    with pytest.raises(ValueError, match=r"and 0 arrays"):
        save_weights({}, tmp_path / "weights.npz")


def test_loading_says_when_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.npz"):
        load_weights(tmp_path / "nowhere.npz")


def test_loading_refuses_a_truncated_file(tmp_path):
    path = save_weights({"w": np.ones(1000)}, tmp_path / "weights.npz")
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"load_weights: .* is not a .npz file .* or is damaged"
        ):
            load_weights(path)


def test_loading_refuses_a_flipped_bit(tmp_path):
    path = save_weights({"w": np.ones(1000)}, tmp_path / "weights.npz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"or is damaged \(Bad CRC"):
        load_weights(path)


def test_loading_refuses_pickled_objects(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"not a \.npz file of plain arrays"):
        load_weights(path)


def test_loading_refuses_a_single_array_and_other_zips(tmp_path):
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"it is a single array of NumPy"):
        load_weights(single)
    other = tmp_path / "other.npz"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("w.npy", b"not an array")
    with pytest.raises(ValueError, match=r"not a \.npz file of plain arrays"):
        load_weights(other)


def test_saving_refuses_a_model_and_names_its_state_dict(tmp_path):
    with pytest.raises(TypeError, match=r"got a Sequential, expected .* model\.state_dict\(\)"):
        save_weights(models.cifar10_cnn(), tmp_path / "weights.npz")


def test_saved_files_have_the_usual_permissions(tmp_path):
    path = save_weights({"w": np.ones(1)}, tmp_path / "weights.npz")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_reference_network_trains_alike_on_every_device(device):
    def losses(where):
        model = models.cifar10_cnn(rng=np.random.default_rng(0)).to(where)
        adam = optim.Adam(model.parameters(), lr=1e-3)
        rng, found = np.random.default_rng(1), []
        for _ in range(3):
            images = Tensor(rng.standard_normal((8, 3, 32, 32), np.float32), device=where)
            loss = cross_entropy(model(images), Tensor(rng.integers(0, 10, 8), device=where))
            adam.zero_grad()
            loss.backward()
            adam.step()
            found.append(loss.item())
        return found

    np.testing.assert_allclose(losses(device), losses("cpu"), rtol=1e-4)
