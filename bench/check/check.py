#!/usr/bin/env python3
"""bench/check/check.py [--update] [--show]: instructions per message, against
bench/check/figures.json.

Runs bench/check/cost under callgrind, each case by several seeds, and takes
the mean.  Says nothing when every figure is within TOLERANCE of the committed
one.  Else it prints what is not, with the functions that changed most, and
exits with 1.  Exits with 77 and a reason when this machine cannot compare: no
valgrind, or code that another compiler or for another processor has made.

What is counted: the broker's own functions (base/, journal/, broker/) and
what they call in libraries.  Not counted: the simulator, the client, the
kernel.  bench/README.md says more.

--update  writes the figures, and the table in bench/README.md
--show    prints every figure, by layer
"""

import argparse
import collections
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# From the top of the tree.
FIGURES = "bench/check/figures.json"
README = "bench/README.md"
MARK_BEGIN = "<!-- written by make bench-check UPDATE=1 -->\n"
MARK_END = "<!-- end -->\n"

TOLERANCE = 0.03
SEEDS = (1, 2)
SKIPPED = 77
CASE_SECONDS_MAX = 300
# Functions below this share of a case are not worth a line in the figures.
SHARE_MIN = 0.005
GROWN_SHOWN = 8

# A path's layer: the first that fits.
LAYERS = (
    ("broker/protocols/", "AMQP"),
    ("broker/core/", "core"),
    ("journal/log/", "log"),
    ("journal/store/", "store"),
    ("base/crypto", "crypto"),
    ("base/crc32c", "crypto"),
    ("base/compress", "crypto"),
    ("base/sim/", None),
    ("base/", "base"),
)
# What a library does for the layer that calls it is that layer's, but for
# Proton, which is a layer.
PROTON = "libqpid-proton"
COLUMNS = ("AMQP", "Proton", "core", "log", "store", "crypto", "base")

# Nothing else, so that stack and libraries are the same everywhere.  The C
# library would copy much at once by one instruction that valgrind counts for
# every byte, and choose by the size of caches.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C",
    "LD_BIND_NOW": "1",
    "GLIBC_TUNABLES": ":".join(
        f"glibc.cpu.x86_{name}_threshold=0x4000000"
        for name in ("rep_movsb", "rep_stosb", "non_temporal")),
}
PACKAGES = ("libc6", "libqpid-proton11", "libsodium23", "libssl3", "libzstd1",
            "valgrind")


class Skip(Exception):
    """This machine cannot compare; the text says why."""


class Broken(Exception):
    """A case did not run to its end; the text says what it said."""


# ---- callgrind's files ----

def layer_of(path):
    """None for what is not the broker's."""
    for begin, layer in LAYERS:
        if path.startswith(begin):
            return layer
    return None


def library_of(path):
    return re.sub(r"(-core)?\.so.*$", "", os.path.basename(path))


class Names:
    """Callgrind writes a name once, as "(7) name", and then "(7)"."""

    def __init__(self):
        self.known = {}

    def get(self, text):
        number, _, name = text.partition(" ")
        if name:
            self.known[number] = name
        return self.known.get(number, number)


class Parser:
    """Sums a file's costs to {(layer, function): instructions}.

    A line of costs belongs to the function above it, or after "calls=" is
    what one call has cost, with all that it called.

    homes: as function_homes() returns.  Callgrind says of a function which
    file its first instruction is from, which may be a header's."""

    def __init__(self, homes):
        self.homes = homes
        self.objects, self.files, self.functions = Names(), Names(), Names()
        self.costs = collections.Counter()
        self.at = self.called = None
        self.object = self.file = ""

    def place(self, obj, path, function):
        """(layer or None, function's name, library or None)."""
        if obj != program():
            return None, function, library_of(obj)
        function = re.sub(r"'\d+$", "", function)  # called by itself
        sources = self.homes.get(function, [path])
        source = next((one for one in sources if path.endswith(one)),
                      sources[0])
        # Copies that the compiler has made have a suffix.
        function = re.sub(r"\.(constprop|isra|part|cold)\b.*$", "", function)
        return layer_of(source), f"{source}:{function}", None

    def add_call(self, cost):
        (layer, name, _), (to_layer, to_name, library) = self.at, self.called
        if layer and library:
            if library == PROTON:
                layer = "Proton"
            self.costs[layer, f"{name} > {library}"] += cost
        elif to_layer and self.at[2]:
            # Called back out of a library: counted in that call, too.
            self.costs[to_layer, f"{to_name} (called back)"] -= cost

    def parse(self, lines):
        called_object = called_file = None
        in_call = False
        for line in lines:
            key, equals, value = line.rstrip("\n").partition("=")
            if not equals:
                fields = line.split()
                if len(fields) != 2 or not fields[0].lstrip("+-*").isdigit() \
                        and fields[0] not in "+-*":
                    continue
                if in_call:
                    self.add_call(int(fields[1]))
                    in_call = False
                elif self.at and self.at[0]:
                    self.costs[self.at[0], self.at[1]] += int(fields[1])
            elif key == "ob":
                self.object = self.objects.get(value)
            elif key == "fl":
                self.file = self.files.get(value)
            elif key in ("fi", "fe"):
                self.files.get(value)
            elif key == "fn":
                self.at = self.place(self.object, self.file,
                                     self.functions.get(value))
                called_object = called_file = None
            elif key == "cob":
                called_object = self.objects.get(value)
            elif key in ("cfi", "cfl"):
                called_file = self.files.get(value)
            elif key == "cfn":
                self.called = self.place(
                    called_object or self.object, called_file or self.file,
                    self.functions.get(value))
                called_object = called_file = None
            elif key == "calls":
                in_call = True
        return self.costs


# ---- running ----

def build_dir():
    return os.environ.get("BUILD", "build")


def program():
    return os.path.abspath(os.path.join(build_dir(), "bench/check/cost"))


def run(command, seconds=60, **more):
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=seconds, check=False, **more)
    except subprocess.TimeoutExpired as late:
        raise Broken(f"{' '.join(command)}: not ended after {seconds} s") \
            from late
    if done.returncode:
        raise Broken(f"{' '.join(command)}: exit code {done.returncode}\n"
                     f"{done.stdout}{done.stderr}")
    return done.stdout


def function_homes():
    """{function: sources that define one of that name}, from the objects."""
    objects = {}
    for top in ("base", "journal", "broker", "bench/check"):
        for folder, _, names in os.walk(os.path.join(build_dir(), top)):
            for name in sorted(names):
                path = os.path.join(folder, name)
                source = os.path.relpath(path, build_dir())[:-1] + "c"
                if name.endswith(".o") and os.path.exists(source):
                    objects[path] = source
    homes = collections.defaultdict(list)
    for line in run(["nm", "-A", "--defined-only", *objects]).splitlines():
        path, _, symbol = line.partition(":")
        kind, name = symbol.split()[-2:]
        if kind in "tT":
            homes[name].append(objects[path])
    return homes


def run_case(case, seed, homes, scratch):
    """{part: (costs, count, the part to be taken off)}, and the processor
    that the program saw."""
    out = os.path.join(scratch, f"{case}.{seed}")
    said = run(["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
                "--dump-line=no", f"--callgrind-out-file={out}",
                program(), case, str(seed)],
               CASE_SECONDS_MAX, env=ENVIRONMENT, cwd=scratch)
    cpu, *parts = said.splitlines()
    found = {}
    for number, line in enumerate(parts, 1):
        name, count, less = line.split()
        with open(f"{out}.{number}", encoding="utf-8") as f:
            text = f.readlines()
        if f"desc: Trigger: Client Request: {name}\n" not in text:
            raise Broken(f"{out}.{number} is not of the part {name}")
        found[name] = (Parser(homes).parse(text), int(count), less)
    return found, cpu


def per_message(found):
    """{part: {(layer, function): instructions a message}}."""
    results = {}
    for name, (costs, count, less) in found.items():
        costs = collections.Counter(costs)
        if less != "-":
            costs.subtract(found[less][0])
        results[name] = {key: cost / count for key, cost in costs.items()
                         if cost}
    return results


def measure(seeds):
    """{part: {(layer, function): mean}}, the processor, and each seed's
    totals."""
    cases = run([program()]).split()
    jobs = [(case, seed) for case in cases for seed in seeds]
    homes = function_homes()
    scratch = tempfile.mkdtemp(prefix="cost.")
    try:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            # The last takes longest, so it begins first.
            runs = {job: pool.submit(run_case, *job, homes, scratch)
                    for job in reversed(jobs)}
            done = [runs[job].result() for job in jobs]
    finally:
        shutil.rmtree(scratch)
    means, totals = {}, {}
    for found, _ in done:
        for part, costs in per_message(found).items():
            mean = means.setdefault(part, collections.Counter())
            for key, cost in costs.items():
                mean[key] += cost / len(seeds)
            totals.setdefault(part, []).append(sum(costs.values()))
    return means, done[0][1], totals


# ---- what the code was made by ----

def compiler():
    """Compiler and flags, as they are in the debug information."""
    said = run(["readelf", "--debug-dump=info", "--dwarf-depth=1",
                os.path.join(build_dir(), "base/loop.o")])
    match = re.search(r"DW_AT_producer\s*:\s*(?:\(.*?\):\s*)?(.*)", said)
    if not match:
        raise Skip("not compared: base/loop.o does not say which compiler has "
                   "made it; build with -g")
    return match[1].strip()


def packages():
    if not shutil.which("dpkg-query"):
        return {}
    said = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES],
        capture_output=True, text=True, check=False).stdout
    return dict(line.split() for line in said.splitlines())


def check_tools():
    missing = [tool for tool in ("valgrind", "readelf", "nm")
               if not shutil.which(tool)]
    if missing:
        raise Skip(f"not measured: {' and '.join(missing)} not found; "
                   f"tools/dev/deps test installs what is missing")


# ---- figures ----

def total(costs):
    return sum(costs.values())


def by_layer(costs):
    layers = collections.Counter()
    for (layer, _), cost in costs.items():
        layers[layer] += cost
    return layers


def figures_of(costs):
    whole = total(costs)
    layers = by_layer(costs)
    functions = sorted(
        ((name, cost) for (_, name), cost in costs.items()
         if cost >= whole * SHARE_MIN), key=lambda item: (-item[1], item[0]))
    return {
        "instructions": round(whole),
        "layers": {layer: round(layers[layer]) for layer in COLUMNS
                   if layers[layer]},
        "functions": {name: round(cost, 1) for name, cost in functions},
    }


def number(n):
    return f"{round(n):,}"


def table(rows):
    """Of texts, the first row being the head; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [" | ".join(cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(row, widths)))
             for row in rows]
    lines.insert(1, " | ".join("-" * (width - 1) + (":" if i else "-")
                               for i, width in enumerate(widths)))
    return "".join(f"| {line} |\n" for line in lines)


def budget(cases):
    rows = [("", "all", *COLUMNS)]
    for name, case in cases.items():
        rows.append((name, number(case["instructions"]), *(
            number(case["layers"].get(layer, 0)) for layer in COLUMNS)))
    return table(rows)


def readme_with(text, cases):
    begin = text.index(MARK_BEGIN) + len(MARK_BEGIN)
    end = text.index(MARK_END)
    return text[:begin] + "\n" + budget(cases) + "\n" + text[end:]


def update(measured, cpu):
    figures = {
        "compiler": compiler(),
        "cpu": cpu,
        "packages": packages(),
        "cases": {name: figures_of(costs)
                  for name, costs in measured.items()},
    }
    with open(FIGURES, "w", encoding="utf-8") as f:
        json.dump(figures, f, indent=1)
        f.write("\n")
    with open(README, encoding="utf-8") as f:
        text = f.read()
    with open(README, "w", encoding="utf-8") as f:
        f.write(readme_with(text, figures["cases"]))


# ---- comparing ----

def change(now, committed):
    return now / committed - 1 if committed else float("inf")


def percent(ratio):
    return f"{100 * ratio:+.1f} %"


def moved(costs, committed):
    """Lines about the functions that changed most."""
    now = {name: cost for (_, name), cost in costs.items()}
    least = committed["instructions"] * SHARE_MIN
    changes = []
    for name in now.keys() | committed["functions"].keys():
        was = committed["functions"].get(name)
        # What is not in the figures cost less than this.
        by = now.get(name, 0) - (least if was is None else was)
        if was is not None or by > 0:
            changes.append((by, name, was))
    grown = total(costs) > committed["instructions"]
    changes.sort(key=lambda item: item[0], reverse=grown)
    for by, name, was in changes[:GROWN_SHOWN]:
        if abs(by) >= 1 and (by > 0) == grown:
            before = f"below {number(least)}" if was is None else number(was)
            yield f"    {by:+10,.0f}  {name} ({before}, now " \
                  f"{number(now.get(name, 0))})"


def compare(measured, committed):
    """What is to be said; empty when all is well."""
    lines, rows, worst = [], [("", "committed", "now", "change")], []
    for name in sorted(measured.keys() ^ committed.keys()):
        lines.append(f"{name}: only "
                     + ("measured" if name in measured else "committed"))
    for name, costs in measured.items():
        if name not in committed:
            continue
        was = committed[name]["instructions"]
        ratio = change(total(costs), was)
        if abs(ratio) > TOLERANCE:
            rows.append((name, number(was), number(total(costs)),
                         percent(ratio)))
            worst.append(name)
    if worst:
        lines.append(f"Instructions per message changed by more than "
                     f"{100 * TOLERANCE:.0f} %:\n\n{table(rows)}")
        for name in worst:
            lines.append(f"{name}, most of it in:")
            lines.extend(moved(measured[name], committed[name]))
    return lines


def changed_packages(committed):
    here = packages()
    for name, version in committed.items():
        if here.get(name) != version:
            yield f"  {name}: {version} then, {here.get(name, 'none')} now"


def check_readme(cases):
    with open(README, encoding="utf-8") as f:
        text = f.read()
    if readme_with(text, cases) != text:
        yield "the table in bench/README.md is not that of " \
              "bench/check/figures.json"


def check_same(what, committed, now):
    if committed != now:
        raise Skip(f"not compared: bench/check/figures.json is for the {what} "
                   f"\"{committed}\", and here it is \"{now}\"")


def check(measured, figures):
    lines = compare(measured, figures["cases"])
    lines.extend(check_readme(figures["cases"]))
    if not lines:
        return 0
    print("\n".join(lines))
    different = list(changed_packages(figures["packages"]))
    if different:
        print("\nNot the packages that the figures were made with:")
        print("\n".join(different))
    print("\nWhen this is meant to be so: make bench-check UPDATE=1, and "
          "commit bench/check/figures.json\nand bench/README.md with the "
          "reason.")
    return 1


def show(measured, totals):
    print(budget({name: figures_of(costs)
                  for name, costs in measured.items()}))
    rows = [("of one seed, from the mean", "least", "most")]
    for name, each in totals.items():
        mean = sum(each) / len(each)
        rows.append((name, percent(change(min(each), mean)),
                     percent(change(max(each), mean))))
    print(table(rows))


def main():
    os.chdir(os.path.join(HERE, "../.."))
    parser = argparse.ArgumentParser(
        description="Instructions per message, against the committed ones.")
    parser.add_argument("--update", action="store_true",
                        help="write the figures")
    parser.add_argument("--show", action="store_true",
                        help="print all of them, by layer")
    options = parser.parse_args()
    try:
        check_tools()
        if options.update:
            figures = None
        else:
            with open(FIGURES, encoding="utf-8") as f:
                figures = json.load(f)
            check_same("compiler", figures["compiler"], compiler())
        measured, cpu, totals = measure(SEEDS)
        if options.show:
            show(measured, totals)
        if options.update:
            update(measured, cpu)
            return 0
        check_same("processor", figures["cpu"], cpu)
        return check(measured, figures)
    except Skip as why:
        print(why)
        return SKIPPED
    except Broken as why:
        print(why)
        return 1


if __name__ == "__main__":
    sys.exit(main())
