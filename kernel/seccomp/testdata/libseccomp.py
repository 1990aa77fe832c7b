# Compiles filters with libseccomp for the test that compares them with ours. One JSON object
# a line comes in, one a line goes out. Rules are added as runc adds them: a rule whose
# conditions look at one argument twice becomes one rule for each condition, and a rule with
# the default action none.
import base64, json, os, resource, sys, tempfile
import seccomp

actions = {"ALLOW": seccomp.ALLOW, "LOG": seccomp.LOG, "KILL": seccomp.KILL, "KILL_PROCESS": seccomp.KILL_PROCESS,
           "TRAP": seccomp.TRAP, "NOTIFY": seccomp.NOTIFY}
operators = {"NE": seccomp.NE, "LT": seccomp.LT, "LE": seccomp.LE, "EQ": seccomp.EQ, "GE": seccomp.GE, "GT": seccomp.GT,
             "MASKED_EQ": seccomp.MASKED_EQ}


def action(a):
    name, code = a
    if name == "ERRNO":
        return seccomp.ERRNO(code)
    if name == "TRACE":
        return seccomp.TRACE(code)
    return actions[name]


def compiled(job):
    f = seccomp.SyscallFilter(action(job["default"]))
    f.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    f.set_attr(seccomp.Attr.CTL_OPTIMIZE, job["optimize"])
    for name in job["archs"]:
        a = seccomp.Arch(name)
        if not f.exist_arch(a):
            f.add_arch(a)
    if "x86_64" not in job["archs"]:  # the machine's own, which is always there at first
        f.remove_arch(seccomp.Arch("x86_64"))
    unknown, refused = set(), []
    for rule in job["rules"]:
        if rule["action"] == job["default"]:
            continue
        try:
            number = seccomp.resolve_syscall(seccomp.Arch(), rule["name"])
        except ValueError:
            number = -1
        if number == -1:
            unknown.add(rule["name"])
            continue
        args = [seccomp.Arg(i, operators[op], a, b) for i, op, a, b in rule["args"]]
        indexes = [a[0] for a in rule["args"]]
        sets = [[a] for a in args] if len(set(indexes)) < len(indexes) else [args]
        for s in sets:
            try:
                f.add_rule(action(rule["action"]), rule["name"], *s)
            except (RuntimeError, ValueError) as e:
                refused.append("%s: %s" % (rule["name"], e))
    with tempfile.TemporaryFile() as out:
        f.export_bpf(out)
        out.seek(0)
        text = out.read()
    return {"bpf": base64.b64encode(text).decode(), "unknown": sorted(unknown), "refused": refused}


# Some sets of conditions keep libseccomp busy for ever: each job is a process with a limit.
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        print(json.dumps(compiled(json.loads(line))), flush=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        print(json.dumps({"failed": os.WIFSIGNALED(status) and "takes too long" or "fails"}), flush=True)
