#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Metrics, the dashboard and the alerts that use them, and completion by bash: run
this in the VM as root; it prints KTAP.

Prometheus and its node exporter are Debian's, unpacked by 'tools/setup tools'.
"""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from ktap import Skipped, check, run_tests, wait_until  # noqa: E402

DASHBOARD = os.path.join(ROOT, "contrib/grafana-dashboard.json")
ALERTS = os.path.join(ROOT, "contrib/dksm-alerts.yml")
COMPLETION = os.path.join(ROOT, "contrib/dksm.bash")
CACHE = os.environ.get("DKSM_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dksm")
EXPORTER = "127.0.0.1:9100"
PROMETHEUS = "127.0.0.1:9090"
START_SECONDS = 120     # emulated machines are slow
DOMAIN = "web-1.test"
PAGES = 200
SHARER = f"""
import mmap, sys
memory = mmap.mmap(-1, {PAGES} * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b"same" * ({PAGES} * 1024))
print("ready", flush=True)
for line in sys.stdin:
    memory[int(line) * 4096] = 1
    print("written", flush=True)
"""


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    said = " ".join((done.stderr + done.stdout).split())
    check(done.returncode == 0, f"{' '.join(command)}: {done.returncode} {said}")
    return done.stdout


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class Sharer:
    """A process with equal pages, merged in a domain."""

    def __init__(self, domain=DOMAIN):
        self.process = subprocess.Popen([sys.executable, "-c", SHARER], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)
        self.process.stdout.readline()
        run("dksm", "merge", "--domain", domain, str(self.process.pid))

    def write(self, page):
        self.process.stdin.write(f"{page}\n")
        self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def samples(text):
    """What --prometheus prints, as {(metric, domain or None): value}."""
    rows = re.findall(r'^(\w+)(?:\{domain="(.*)"\})? ([0-9.]+)$', text, re.MULTILINE)
    return {(name, domain or None): float(value) for name, domain, value in rows}


def metrics():
    return samples(run("dksm", "stat", "--prometheus"))


def program(package, name):
    path = os.path.join(CACHE, "debian", package, "usr/bin", name)
    if not os.path.exists(path):
        raise Skipped(f"no {name}: run tools/setup tools")
    return path


# ---- the metrics ------------------------------------------------------------


def same_number(seen, prefix, domain, name, value):
    metric = prefix + name
    if name.endswith("_ns"):
        metric, value = metric[:-3] + "_seconds_total", value / 1e9
    found = seen.get((metric, domain), seen.get((metric + "_total", domain)))
    check(found == value, f"{metric} of {domain}: {found}, in JSON {value}")


def metrics_say_what_json_says():
    with Sharer() as sharer:
        sharer.write(7)
        seen, root = metrics(), json.loads(run("dksm", "stat", "--json"))
    check(seen["dksm_domain_pages_sharing", DOMAIN] >= PAGES - 2, "pages are shared")
    check(seen["dksm_domain_cow_breaks_total", DOMAIN] > 0, "a write is counted")
    for name, value in root["total"].items():
        same_number(seen, "dksm_", None, name, value)
    for domain in root["domains"]:
        for name in domain.keys() - {"name"}:
            same_number(seen, "dksm_domain_", domain["name"], name, domain[name])
    numbers = len(root["total"]) + sum(len(domain) - 1 for domain in root["domains"])
    check(len(seen) == numbers, f"{len(seen)} samples for {numbers} numbers")


def hosts_count_domains_that_are_gone():
    with Sharer() as sharer:
        sharer.write(7)
        before = metrics()
    after = metrics()
    check(("dksm_domain_saved_bytes", DOMAIN) not in after, "the domain is gone")
    check(after["dksm_cow_breaks_total", None] >= before["dksm_cow_breaks_total", None] > 0,
          "its writes still count")


def others_see_the_host_only():
    with Sharer():
        text = run("setpriv", "--reuid", "65534", "--clear-groups", "dksm", "stat", "--prometheus")
    seen = samples(text)
    check(seen["dksm_saved_bytes", None] > 0, "the host's number is there")
    check(not [domain for _, domain in seen if domain], "no domain of others")


def promtool_accepts_them():
    with Sharer():
        text = run("dksm", "stat", "--prometheus")
    out = run(program("prometheus", "promtool"), "check", "metrics", text=text)
    check(not out, out)


def alerts(series, fired):
    """Fifty minutes of series, and what is to fire then."""
    samples_wanted = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in fired]
    return {"interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{"expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                                  "eval_time": "50m", "exp_samples": samples_wanted}]}


def each_alert_fires_when_it_should():
    healthy = {'node_textfile_mtime_seconds{file="/x/dksm.prom"}': "0+60x60",
               "dksm_merge_calls_total": "9+0x60", "dksm_pages_shared": "100000+0x60",
               "dksm_saved_bytes": "900000000+0x60", "dksm_metadata_bytes": "70000000+0x60",
               'dksm_domain_cow_breaks_total{domain="web"}': "0+100x60",
               'dksm_domain_pages_sharing{domain="web"}': "20000+0x60"}
    tests = [alerts(healthy, []),
             alerts(healthy | {'node_textfile_mtime_seconds{file="/x/dksm.prom"}': "0+0x60"},
                    ["DksmMetricsStale"]),
             alerts(healthy | {"dksm_saved_bytes": "0+0x60", "dksm_metadata_bytes": "100+0x60"},
                    ["DksmSharesNothing"]),
             alerts(healthy | {'dksm_domain_cow_breaks_total{domain="web"}': "0+1100x60"},
                    ["DksmManyWrites"]),
             alerts(healthy | {"dksm_metadata_bytes": "100000000+0x60"}, ["DksmMetadataLarge"])]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"rule_files": [ALERTS], "evaluation_interval": "1m", "tests": tests}, file)
        file.flush()
        run(program("prometheus", "promtool"), "test", "rules", file.name)
    names = re.findall(r"alert: (\w+)", read(ALERTS))
    check(len(names) == len(tests) - 1, f"not all of {names} are tested")


# ---- the dashboard ----------------------------------------------------------


def dashboard_expressions():
    dashboard = json.loads(read(DASHBOARD))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def panel_is_complete(panel):
    name = panel["title"]
    check(panel["type"] in ("stat", "timeseries"), name)
    check(set(panel["gridPos"]) == {"x", "y", "w", "h"}, f"{name}: place")
    check(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, f"{name}: beyond the right edge")
    check(panel["fieldConfig"]["defaults"]["unit"], f"{name}: unit")
    check(panel["datasource"]["uid"] == "${datasource}", f"{name}: data source")
    check(len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0,
          f"{name}: targets")


def dashboard_can_be_imported():
    dashboard = json.loads(read(DASHBOARD))
    check(dashboard["id"] is None and dashboard["title"] and dashboard["schemaVersion"] >= 30, "head")
    variables = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    check(variables == {"datasource": "datasource", "instance": "query", "domain": "query"}, variables)
    check(len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), "IDs")
    for panel in dashboard["panels"]:
        panel_is_complete(panel)


def contributed_names_are_exported():
    with Sharer():
        exported = {name for name, _ in metrics()}
    for path in DASHBOARD, ALERTS, os.path.join(ROOT, "docs/metrics.md"):
        named = set(re.findall(r"\bdksm_[a-z_]*[a-z]\b", read(path)))
        check(len(named) > 3 and named <= exported, f"{path} names {named - exported}")
    table = set(re.findall(r"\bdksm_[a-z_]*[a-z]\b", read(os.path.join(ROOT, "docs/metrics.md"))))
    missing = {name for name in exported if not name.startswith("dksm_domain_")} - table
    check(not missing, f"docs/metrics.md lacks {missing}")


# ---- a real scrape ----------------------------------------------------------


def answer(query):
    url = f"http://{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=30) as reply:
        return json.load(reply)["data"]["result"]


def answers(query):
    try:
        return answer(query)
    except OSError:
        return []


def exporter(directory):
    return [program("prometheus-node-exporter", "prometheus-node-exporter"),
            "--collector.disable-defaults", "--collector.textfile",
            f"--collector.textfile.directory={directory}", f"--web.listen-address={EXPORTER}"]


def prometheus(directory):
    config = os.path.join(directory, "prometheus.yml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"global: {{scrape_interval: 2s, evaluation_interval: 5s}}\nrule_files: [{ALERTS}]\n"
                   f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{EXPORTER}']}}]}}]\n")
    return [program("prometheus", "prometheus"), f"--config.file={config}",
            f"--storage.tsdb.path={directory}/data", f"--web.listen-address={PROMETHEUS}"]


def for_prometheus(expression):
    """A dashboard's expression as Grafana would send it."""
    return re.sub(r"\$(instance|domain)", ".*", expression.replace("$__rate_interval", "1m"))


def scraped(directory):
    with Sharer() as sharer:
        sharer.write(7)
        text = run("dksm", "stat", "--prometheus")
    with open(os.path.join(directory, "dksm.prom"), "w", encoding="utf-8") as file:
        file.write(text)
    wait_until(lambda: answers("rate(dksm_merge_seconds_total[1m])"), START_SECONDS, "two scrapes")
    for (name, domain), value in samples(text).items():
        result = answer(f'{name}{{domain="{domain or ""}"}}')
        check([float(sample["value"][1]) for sample in result] == [value], f"{name}: {result}")
    for expression in dashboard_expressions():
        check(answer(for_prometheus(expression)), f"no data: {expression}")
    check(not answer("node_textfile_scrape_error > 0"), "the exporter can read it")
    check(answer('node_textfile_mtime_seconds{file=~".*/dksm.prom"}'), "the stale alert has its number")


def prometheus_scrapes_them():
    with tempfile.TemporaryDirectory() as directory:
        servers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                   for command in (exporter(directory), prometheus(directory))]
        try:
            scraped(directory)
        finally:
            for server in servers:
                server.terminate()
                server.wait()


# ---- completion -------------------------------------------------------------


class Shell:
    """An interactive bash, with our completion, at a terminal."""

    def __init__(self, directory):
        self.words = os.path.join(directory, "words")
        self.terminal, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd=ROOT,
            env={"PATH": os.environ["PATH"], "TERM": "dumb", "HISTFILE": ""})
        os.close(slave)
        self.type(f". {COMPLETION}\n")

    def type(self, text):
        os.write(self.terminal, text.encode())

    def complete(self, line):
        """What bash offers at the end of a line: Meta-* puts all of that there."""
        self.type(f"{line}\033*\001printf '%s\\n' \005 >{self.words}.new; mv {self.words}.new {self.words}\n")
        wait_until(lambda: os.path.exists(self.words), 30, f"completion of {line}")
        words = read(self.words).split("\n")[:-1]
        os.unlink(self.words)
        return set(words[len(line.split(" ")) - 1:])

    def end(self):
        self.type("exit\n")
        self.process.wait()
        os.close(self.terminal)


def in_shell(test):
    with tempfile.TemporaryDirectory() as directory:
        shell = Shell(directory)
        try:
            test(shell)
        finally:
            shell.end()


def commands():
    listed = run("dksm", "--help").split("Commands:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines()]


def options(command):
    usage, *rows = run("dksm", command, "--help").split("\n\n", 1)
    text = usage + "".join(re.findall(r"^ +(--\S+)", "\n".join(rows), re.MULTILINE))
    return set(re.findall(r"--[a-z][a-z-]*[a-z]", text.replace("--", " --"))) | {"--help"}


def all_commands_and_options_complete():
    def test(shell):
        names = commands()
        check(len(names) >= 7, names)
        offered = shell.complete("dksm ")
        check(offered == set(names) | {"--help", "--version"}, f"dksm: {offered}")
        check(shell.complete("dksm st") == {"stat"}, "a beginning is completed")
        for name in names:
            offered, wanted = shell.complete(f"dksm {name} -"), options(name)
            check(offered == wanted, f"{name}: {offered}, in its help {wanted}")
    in_shell(test)


def pids_and_domains_complete():
    def test(shell):
        with Sharer() as sharer:
            pid = str(sharer.process.pid)
            for command in "stat ", "merge ", "merge --json ", "merge --domain x ", "merge --domain=x ":
                pids = shell.complete(f"dksm {command}")
                check(pid in pids and all(word.isdigit() for word in pids), f"{command}: {pids}")
            check("2" not in pids, "no kernel threads")
            check(shell.complete(f"dksm stat {pid} -") >= {"--json"}, "options behind the PID")
            for line in "dksm run --domain ", "dksm merge --domain we", "dksm attach --domain=":
                offered = shell.complete(line)
                check(offered in ({DOMAIN}, {"--domain=" + DOMAIN}), f"{line}: {offered}")
    in_shell(test)


def vmms_and_their_files_complete():
    def test(shell):
        for line in "dksm run bas", "dksm run --no-idle -- bas":
            check("bash" in shell.complete(line), line)
        check(shell.complete("dksm run bash -") == {"-"}, "no options of ours behind the VMM")
        for line in "dksm run bash READ", "dksm run bash --domain READ", "dksm run --report READ":
            check(shell.complete(line) == {"README.md"}, line)
    in_shell(test)


TESTS = [
    metrics_say_what_json_says, hosts_count_domains_that_are_gone, others_see_the_host_only,
    promtool_accepts_them, each_alert_fires_when_it_should, dashboard_can_be_imported,
    contributed_names_are_exported, prometheus_scrapes_them, all_commands_and_options_complete,
    pids_and_domains_complete, vmms_and_their_files_complete,
]

if __name__ == "__main__":
    run_tests(TESTS, sys.argv[1:])
