"""Drives an engine by docker-py, check by check. Arguments: the engine's socket, a registry, a
scratch directory. For each check one line of JSON is written: its name, what went wrong, and
every request with its status."""

import io
import json
import socket
import struct
import sys
import tarfile
import time
import traceback

import docker
from docker import errors, types

base, registry, scratch = sys.argv[1:4]
answers = []


def connect(version):
    client = docker.DockerClient(base_url=base, version=version, timeout=60)
    client.api.hooks["response"].append(
        lambda r, *a, **k: answers.append([r.request.method, r.request.path_url.split("?")[0], r.status_code]))
    return client


client = connect("auto")
api = client.api
checks = []


def check(f):
    checks.append(f)
    return f


def raises(kind, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as e:
        return e
    raise AssertionError("%s was not raised" % kind.__name__)


def tar(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            t.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def untar(chunks):
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as t:
        return {m.name: t.extractfile(m).read().decode(errors="replace") if m.isreg() else None for m in t.getmembers()}


def start(name, command="sleep 1000", **kw):
    kw.setdefault("network_mode", "none")
    return client.containers.run("busybox", command, name=name, detach=True, **kw)


@check
def system():
    assert client.ping() is True
    version = client.version()
    assert version["Os"] == "linux" and version["MinAPIVersion"] == "1.40" and version["Components"][0]["Name"]
    info = client.info()
    assert info["Swarm"]["LocalNodeState"] == "inactive" and info["OSType"] == "linux" and info["Driver"]
    assert client.df()["ImageUsage"]["TotalSize"] > 0
    df = connect("1.41").df()
    assert df["Images"] and df["LayersSize"] > 0 and isinstance(df["Volumes"], list)


@check
def versions():
    for v in ("1.40", "1.41"):
        c = connect(v)
        assert c.version()["ApiVersion"] >= "1.40" and c.containers.list() == [] and c.images.get("busybox").id
        c.close()
    raises(errors.APIError, connect("1.30").ping)


@check
def images():
    image = client.images.get("busybox:latest")
    assert image.tags == ["busybox:latest"] and image.id.startswith("sha256:") and image.attrs["RootFS"]["Layers"]
    assert image.tag(registry + "/py", "1") is True
    assert client.images.list(name=registry + "/py")[0].id == image.id
    assert len(client.images.list(filters={"dangling": True})) == 0
    history = image.history()
    assert history[0]["Size"] > 0
    pushed = [json.loads(line) for line in client.images.push(registry + "/py", tag="1", auth_config={"username": "a", "password": "b"}).splitlines()]
    digest = pushed[-1]["aux"]["Digest"]
    saved = b"".join(image.save(named=True))
    client.images.remove(registry + "/py:1")
    raises(errors.ImageNotFound, client.images.get, registry + "/py:1")
    pulled = client.images.pull(registry + "/py", tag="1")
    assert pulled.id == image.id, (pulled.id, image.id)
    data = client.images.get_registry_data(registry + "/py:1")
    assert data.id == digest and data.has_platform("linux/amd64") in (True, False)
    assert client.images.load(saved)[0].id == image.id
    client.images.remove(registry + "/py:1", force=True)
    raises(errors.NotFound, client.images.pull, registry + "/nosuch", tag="1")
    raises(errors.APIError, client.images.pull, "UPPER", tag="1")
    left = client.images.prune(filters={"dangling": True})
    assert left["SpaceReclaimed"] >= 0
    done = [json.loads(line) for line in api.import_image_from_data(tar(a="1"), repository="pyimport", tag="1").splitlines()]
    assert done[-1]["status"].startswith("sha256:")
    client.images.remove("pyimport:1")


@check
def run_and_streams():
    assert client.containers.run("busybox", "echo hello", remove=True, network_mode="none") == b"hello\n"
    both = client.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], remove=True, stderr=True, network_mode="none")
    assert sorted(both.split()) == [b"err", b"out"]
    e = raises(errors.ContainerError, client.containers.run, "busybox", "false", remove=True, network_mode="none")
    assert e.exit_status == 1
    raises(errors.ImageNotFound, client.containers.create, "nosuch-image-here")
    e = raises(errors.APIError, client.containers.run, "busybox", "nosuchprogram", network_mode="none", name="py-missing")
    assert e.response.status_code == 400 and "executable file not found" in e.explanation, e
    client.containers.get("py-missing").remove()
    assert b"".join(client.containers.run("busybox", "seq 3", stream=True, remove=False, name="py-seq", network_mode="none")) == b"1\n2\n3\n"
    client.containers.get("py-seq").remove()


@check
def life():
    c = client.containers.create("busybox", "sleep 1000", name="py-life", network_mode="none", labels={"py": "1"}, environment={"A": "1"}, mem_limit="64m",
                                 cap_add=["NET_ADMIN"], restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, ulimits=[types.Ulimit(name="nofile", soft=100, hard=100)],
                                 tmpfs={"/t": "size=1m"}, healthcheck={"test": ["CMD", "true"], "interval": 10 ** 9}, stop_signal="SIGTERM", log_config=types.LogConfig(type="json-file", config={"max-size": "1m"}))
    assert c.status == "created" and c.name == "py-life" and c.labels == {"py": "1"}
    host = c.attrs["HostConfig"]
    assert host["Memory"] == 64 << 20 and host["CapAdd"] == ["NET_ADMIN"] and host["Tmpfs"] == {"/t": "size=1m"} and host["LogConfig"]["Config"] == {"max-size": "1m"}, host
    c.start()
    c.reload()
    assert c.status == "running" and c.attrs["State"]["Pid"] > 0 and c.attrs["State"]["Health"]["Status"]
    assert c.id in [x.id for x in client.containers.list(filters={"label": "py=1"})]
    assert client.containers.list(all=True, limit=1)[0].id == c.id
    c.pause()
    c.reload()
    assert c.status == "paused"
    raises(errors.APIError, c.exec_run, "true")
    c.unpause()
    c.update(mem_limit="128m", memswap_limit="256m")
    c.rename("py-renamed")
    c.reload()
    assert c.name == "py-renamed" and c.attrs["HostConfig"]["Memory"] == 128 << 20
    top = c.top(ps_args="-eo pid,comm")
    assert top["Titles"] == ["PID", "COMMAND"] and top["Processes"][0][1] == "sleep"
    stats = c.stats(stream=False)
    assert stats["memory_stats"]["usage"] > 0 and stats["name"] == "/py-renamed"
    stream = c.stats(stream=True, decode=True)
    assert next(stream)["id"] == c.id
    stream.close() if hasattr(stream, "close") else None
    c.restart(timeout=0)
    c.kill(signal="SIGKILL")
    raises(errors.APIError, c.kill)
    c.stop(timeout=0)
    c.start()
    c.stop(timeout=0)
    assert c.wait()["StatusCode"] == 137
    c.remove(v=True)
    raises(errors.NotFound, client.containers.get, c.id)
    quick = start("py-wait", ["sh", "-c", "exit 5"])
    assert quick.wait()["StatusCode"] == 5
    quick.remove(force=True)
    start("py-pruned", "true").wait()
    assert len(client.containers.prune()["ContainersDeleted"]) == 1


@check
def logs():
    c = start("py-logs", ["sh", "-c", "echo one; echo two >&2; echo three"])
    assert b"".join(c.logs(stream=True, follow=True)).split() and c.wait()["StatusCode"] == 0
    assert sorted(c.logs().split()) == [b"one", b"three", b"two"]
    assert c.logs(stdout=True, stderr=False) == b"one\nthree\n" and c.logs(stdout=False, stderr=True) == b"two\n"
    c.remove()
    c = start("py-tail", ["sh", "-c", "echo one; echo two; echo three"])
    c.wait()
    assert c.logs(tail=1, stderr=False) == b"three\n" and c.logs(timestamps=True, tail=1)[:2] == b"20"
    c.remove()


@check
def execs():
    c = start("py-exec")
    code, out = c.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True)
    assert code == 3 and out == (b"out\n", b"err\n"), (code, out)
    assert c.exec_run("id -un", user="app").output == b"app\n"
    assert c.exec_run(["sh", "-c", "echo $A; pwd"], environment={"A": "1"}, workdir="/tmp").output == b"1\n/tmp\n"
    assert b"tty" in c.exec_run(["sh", "-c", "test -t 1 && echo tty"], tty=True).output
    assert b"".join(c.exec_run("seq 2", stream=True).output) == b"1\n2\n"
    e = api.exec_create(c.id, "true")
    api.exec_start(e["Id"], detach=True)
    while api.exec_inspect(e["Id"])["Running"]:
        pass
    assert api.exec_inspect(e["Id"])["ExitCode"] == 0
    e = api.exec_create(c.id, "cat", stdin=True)
    sock = api.exec_start(e["Id"], socket=True)
    raw = sock._sock if hasattr(sock, "_sock") else sock
    raw.sendall(b"typed\n")
    raw.shutdown(socket.SHUT_WR)
    data = b""
    while len(data) < 14:
        more = raw.recv(4096)
        assert more
        data += more
    assert struct.unpack(">BxxxL", data[:8]) == (1, 6) and data[8:14] == b"typed\n", data
    sock.close()
    t = api.exec_create(c.id, "sleep 1000", tty=True)
    api.exec_start(t["Id"], detach=True, tty=True)
    api.exec_resize(t["Id"], height=10, width=20)
    raises(errors.NotFound, api.exec_inspect, "nosuch")
    c.remove(force=True)


@check
def attach():
    c = client.containers.create("busybox", "cat", name="py-attach", stdin_open=True, network_mode="none")
    sock = c.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    raw = sock._sock if hasattr(sock, "_sock") else sock
    c.start()
    raw.sendall(b"through\n")
    data = b""
    while b"through\n" not in data:
        more = raw.recv(4096)
        assert more
        data += more
    sock.close()
    c.remove(force=True)
    c = client.containers.create("busybox", "echo attached", name="py-attach2", network_mode="none")
    stream = c.attach(stream=True, logs=True)
    c.start()
    assert b"".join(stream) == b"attached\n"
    c.remove(force=True)
    t = start("py-tty", "sh", tty=True, stdin_open=True)
    t.resize(20, 40)
    t.remove(force=True)


@check
def archives():
    c = start("py-files")
    assert c.put_archive("/tmp", tar(note="text")) is True
    chunks, stat = c.get_archive("/tmp/note")
    assert stat["name"] == "note" and stat["size"] == 4 and untar(chunks) == {"note": "text"}
    raises(errors.NotFound, c.get_archive, "/nosuch")
    changes = {x["Path"]: x["Kind"] for x in c.diff()}
    assert changes["/tmp/note"] == 1, changes
    files = untar(c.export())
    assert files["tmp/note"] == "text" and "etc/passwd" in files
    image = c.commit(repository="py-committed", tag="1", message="m", author="me", changes="ENV B=2")
    assert image.tags == ["py-committed:1"] and "B=2" in image.attrs["Config"]["Env"]
    c.remove(force=True)
    client.images.remove("py-committed:1")


@check
def networks():
    n = client.networks.create("py-net", driver="bridge", labels={"py": "1"}, internal=True)
    assert n.attrs["Internal"] and client.networks.list(names=["py-net"])[0].id == n.id
    raises(errors.APIError, client.networks.create, "py-net", check_duplicate=True)
    c = start("py-connected", network_mode=None, network="py-net")
    n.reload()
    assert [x.id for x in n.containers] == [c.id]
    n.disconnect(c)
    n.connect(c, aliases=["friend"])
    c.reload()
    assert "friend" in c.attrs["NetworkSettings"]["Networks"]["py-net"]["Aliases"]
    raises(errors.APIError, n.remove)
    c.remove(force=True)
    n.remove()
    client.networks.create("py-idle", labels={"py": "2"})
    assert client.networks.prune(filters={"label": "py=2"})["NetworksDeleted"] == ["py-idle"]
    raises(errors.NotFound, client.networks.get, "py-idle")


@check
def volumes():
    v = client.volumes.create("py-vol", driver="local", labels={"py": "1"})
    assert v.name == "py-vol" and client.volumes.get("py-vol").attrs["Labels"] == {"py": "1"}
    assert [x.name for x in client.volumes.list(filters={"name": "py-vol"})] == ["py-vol"]
    assert client.containers.run("busybox", ["sh", "-c", "echo kept > /v/f"], volumes={"py-vol": {"bind": "/v", "mode": "rw"}}, remove=True, network_mode="none") == b""
    m = types.Mount("/m", "py-vol", read_only=True)
    assert client.containers.run("busybox", "cat /m/f", mounts=[m], remove=True, network_mode="none") == b"kept\n"
    c = client.containers.create("busybox", volumes=["/anon"], mounts=[m], network_mode="none")
    e = raises(errors.APIError, v.remove)
    assert e.response.status_code == 409
    c.remove(v=True)
    v.remove()
    raises(errors.NotFound, client.volumes.get, "py-vol")
    assert client.volumes.prune()["SpaceReclaimed"] >= 0


@check
def event_stream():
    c = client.containers.create("busybox", name="py-event", network_mode="none")
    past = list(client.events(since=1, until=int(time.time()) + 1, filters={"container": c.id}, decode=True))
    assert [e["Action"] for e in past] == ["create"] and past[0]["Actor"]["Attributes"]["name"] == "py-event", past
    live = client.events(filters={"container": c.id}, decode=True)
    c.rename("py-event2")
    assert next(live)["Action"] == "rename"
    live.close()
    c.remove()


@check
def accounts():
    raises(errors.APIError, client.login, username="a", password="b", registry="127.0.0.1:1")
    assert client.plugins.list() == []
    e = raises(errors.APIError, api.inspect_swarm)
    assert e.response.status_code == 503
    raises(errors.APIError, api.nodes)
    assert api.prune_builds()["SpaceReclaimed"] == 0


for f in checks:
    answers.clear()
    wrong = ""
    try:
        f()
    except BaseException:
        wrong = traceback.format_exc()
    print(json.dumps({"check": f.__name__, "wrong": wrong, "answers": answers}), flush=True)
