"""Only regular files are opened, and nothing waits for a FIFO's writer."""

import os
import socket

import pytest

from minidl.files.regular import open_regular

unix = pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs and sockets among files")


def test_regular_files_and_links_to_them_are_opened(tmp_path):
    path = tmp_path / "ünï cöde"
    path.write_bytes(b"a\r\n\x1a\0")
    with open_regular(path) as file:
        assert file.read() == b"a\r\n\x1a\0"
    if os.name != "nt":
        (tmp_path / "link").symlink_to(path)
        with open_regular(str(tmp_path / "link")) as file:
            assert file.read(1) == b"a"


def test_a_system_without_nonblocking_files_opens_them_too(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_NONBLOCK", raising=False)
    (tmp_path / "a").write_bytes(b"a")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"a"


def test_what_is_missing_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "a")


def test_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}: got a folder, expected a regular file"):
        open_regular(tmp_path)


@unix
def test_fifos_sockets_and_devices_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("fifo")
    os.symlink("fifo", "link")
    with pytest.raises(ValueError, match="fifo: got a FIFO, expected a regular file"):
        open_regular("fifo")
    with pytest.raises(ValueError, match="link: got a FIFO"):
        open_regular("link")
    with pytest.raises(ValueError, match="null: got a device"):
        open_regular(os.devnull)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(ValueError, match="socket: got a socket"):
            open_regular("socket")


@unix
def test_a_file_replaced_by_a_fifo_while_it_is_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    opened = os.open

    def replace_and_open(name, flags):
        path.unlink()
        os.mkfifo(path)
        return opened(name, flags)

    monkeypatch.setattr(os, "open", replace_and_open)
    with pytest.raises(ValueError, match="a: got a FIFO"):
        open_regular(path)
