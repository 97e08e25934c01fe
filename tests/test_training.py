import errno
import os
import zipfile

import numpy as np
import pytest

from minidl import Tensor, models, optim
from minidl.functional import cross_entropy
from minidl.training import (
    accuracy,
    confusion_matrix,
    load_weights,
    macro_scores,
    save_weights,
)


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(np.array([1, 2, 2, 0]), np.array([1, 2, 0, 0])) == 0.75


def test_confusion_matrix_counts_truth_in_rows_and_answers_in_columns():
    predicted, labels = np.array([0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, 1])
    expected = [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, 3), expected)


def test_confusion_matrix_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 5, (2, 200)).astype(np.uint8)
    expected = np.zeros((5, 5), np.int64)
    for p, y in zip(predicted, labels, strict=True):
        expected[y, p] += 1
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, 5), expected)


def test_macro_scores_agree_with_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
    precisions, recalls, f1s = [], [], []
    for c in range(5):
        right = sum(p == y == c for p, y in zip(predicted, labels, strict=True))
        precisions.append(right / sum(p == c for p in predicted))
        recalls.append(right / sum(y == c for y in labels))
        f1s.append(2 * precisions[c] * recalls[c] / (precisions[c] + recalls[c]))
    expected = np.mean([precisions, recalls, f1s], axis=1)
    np.testing.assert_allclose(macro_scores(predicted, labels, 5), expected, rtol=1e-12)


def test_macro_scores_count_a_rare_class_like_a_frequent_one():
    labels, predicted = np.array([0] * 98 + [1] * 2), np.zeros(100, np.uint8)
    scores = macro_scores(predicted, labels, 2)
    assert accuracy(predicted, labels) == 0.98
    assert scores == (0.98 / 2, 1 / 2, 2 * 98 / (98 + 100) / 2)


def test_macro_scores_leave_out_only_classes_that_nobody_met():
    labels, predicted = np.array([0, 0, 3]), np.array([0, 0, 2])
    assert macro_scores(predicted, labels, 9) == (1 / 3, 1 / 3, 1 / 3)  # of classes 0, 2 and 3
    assert macro_scores(labels, labels, 9) == (1, 1, 1)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_macro_scores_refuse_classes_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"macro_scores: got predicted from .* wants 0 to 2"):
        macro_scores(np.array([0, wrong]), np.array([0, 1]), 3)


@pytest.mark.parametrize(
    ("predicted", "labels"), [(np.ones(3), np.ones(4)), (np.ones((2, 2)),) * 2, (np.ones(0),) * 2]
)
def test_metrics_refuse_shapes_that_do_not_pair(predicted, labels):
    with pytest.raises(ValueError, match=r"accuracy: got shapes .* wants two of \(n,\)"):
        accuracy(predicted, labels)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_confusion_matrix_refuses_classes_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"got labels from .* wants 0 to 2"):
        confusion_matrix(np.array([0, 1]), np.array([0, wrong]), 3)


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
    with pytest.raises(ValueError, match=r"save_weights: got .*weights.pkl .* wants .npz"):
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
        with pytest.raises(ValueError, match=r"load_weights: .* is no .npz file .* or is damaged"):
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
    with pytest.raises(ValueError, match=r"no \.npz file of plain arrays"):
        load_weights(path)


def test_loading_refuses_a_single_array_and_other_zips(tmp_path):
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"it holds a single array"):
        load_weights(single)
    other = tmp_path / "other.npz"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("w.npy", b"not an array")
    with pytest.raises(ValueError, match=r"no \.npz file of plain arrays"):
        load_weights(other)


def test_saving_refuses_a_model_and_names_its_state_dict(tmp_path):
    with pytest.raises(TypeError, match=r"got a Sequential, wants .* model\.state_dict\(\)"):
        save_weights(models.cifar10_cnn(), tmp_path / "weights.npz")


def test_saved_files_have_the_usual_permissions(tmp_path):
    path = save_weights({"w": np.ones(1)}, tmp_path / "weights.npz")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_metrics_refuse_lists():
    with pytest.raises(TypeError, match="accuracy: got list and list, wants NumPy arrays"):
        accuracy([1], [1])


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
