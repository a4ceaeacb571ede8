"""`/v1/files`: what comes in, what goes out, and what never reaches the disk."""

import pytest
from openai.types import FileDeleted, FileObject

from .conftest import TRAINING
from .shapes import conforms, listed, refused


def upload(server, name="a.jsonl", content=TRAINING, purpose="fine-tune", **more):
    files = {"file": (name, content)}
    return server.raw.post("/files", files=files, data={"purpose": purpose, **more})


def stored(server):
    folder = server.root / ".harness" / "serve"
    return sorted(path for path in folder.rglob("*") if "sqlite" not in path.name)


def test_a_file_comes_back_as_it_went_in(server):
    file = conforms(upload(server).json(), FileObject)
    assert file["bytes"] == len(TRAINING)
    assert file["status"] == "processed"
    assert server.raw.get(f"/files/{file['id']}").json() == file
    assert server.raw.get(f"/files/{file['id']}/content").content == TRAINING
    [first, *_] = listed(server.raw.get("/files").json(), FileObject)
    assert first == file
    deleted = conforms(server.raw.delete(f"/files/{file['id']}").json(), FileDeleted)
    assert deleted["deleted"]
    for path in ("", "/content"):
        refused(server.raw.get(f"/files/{file['id']}{path}"), 404)
    refused(server.raw.delete(f"/files/{file['id']}"), 404)


def test_lists_go_by_purpose_and_page_by_page(server):
    ids = [upload(server, purpose="vision").json()["id"] for _ in range(3)]
    query = {"purpose": "vision", "limit": 2}
    page = server.raw.get("/files", params=query).json()
    assert [one["id"] for one in listed(page, FileObject)] == ids[:0:-1]
    assert page["has_more"]
    rest = server.raw.get("/files", params={**query, "after": page["last_id"]}).json()
    assert [one["id"] for one in rest["data"]] == ids[:1]
    assert not rest["has_more"]
    order = server.raw.get("/files", params={"purpose": "vision", "order": "asc"}).json()
    assert [one["id"] for one in order["data"]] == ids
    listed(server.raw.get("/files", params={"purpose": "batch"}).json(), FileObject)


def test_a_file_has_a_life_of_its_own_where_it_is_asked_for(server):
    life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = conforms(upload(server, **life).json(), FileObject)
    assert file["expires_at"] == file["created_at"] + 3600
    refused(upload(server, **{"expires_after[seconds]": "5"}), 400)


@pytest.mark.parametrize(
    "name", ["../../../../tmp/x.jsonl", "/etc/passwd", "..\\..\\x", "a\x1b[31m\r.jsonl", "."]
)
def test_a_name_is_never_a_path(server, name):
    before = set(server.root.rglob("*"))
    file = upload(server, name).json()
    new = set(server.root.rglob("*")) - before
    assert [path.name for path in new if "sqlite" not in path.name] == [file["id"]]
    assert "/" not in file["filename"]
    assert file["filename"].isprintable()


@pytest.mark.parametrize("name", ["..%2f..%2fpyproject.toml", "%2e%2e", "file-none", "a%00b"])
def test_an_id_is_never_a_path(server, name):
    for path in (f"/files/{name}", f"/files/{name}/content"):
        refused(server.raw.get(path), 404)


def test_an_upload_over_the_limit_leaves_nothing(server):
    before = stored(server)
    refused(upload(server, content=b"x" * (2**20 + 1)), 413)
    refused(upload(server, content=b"x" * (3 * 2**20)), 413)

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(48):
            yield b"x" * 2**16

    kind = {"content-type": "multipart/form-data; boundary=b"}
    refused(server.raw.post("/files", content=endless(), headers=kind), 413)
    assert stored(server) == before


def test_a_large_body_elsewhere_is_refused(server):
    refused(server.raw.post("/chat/completions", content=b"x" * (17 * 2**20)), 413)


def test_a_wrong_upload_is_told_what_is_wrong(server):
    before = stored(server)
    assert refused(upload(server, purpose="fun"), 400)["param"] == "purpose"
    assert refused(upload(server, content=b""), 400)["param"] == "file"
    nothing = server.raw.post("/files", data={"purpose": "fine-tune"})
    assert refused(nothing, 400)["param"] == "file"
    refused(server.raw.post("/files", content=b"--", headers={"content-type": "text/plain"}), 400)
    kind = {"content-type": "multipart/form-data; boundary=b"}
    refused(server.raw.post("/files", content=b"rubbish", headers=kind), 400)
    assert stored(server) == before
