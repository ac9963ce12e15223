"""Train on two hosts, in two network namespaces of this machine with a cable between them. Linux, as root.

First a whole run, whose files are compared with those of two processes on one host. Then the same with the cable pulled
after the first checkpoint: each host says whom it lost. Prints a Markdown table and what the hosts said.

    sudo python benchmarks/two_hosts.py
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HOSTS = {"host-a": "10.77.0.1", "host-b": "10.77.0.2"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SETTINGS = (
    "--arch resnet18v2 --image-size 32 --batch-size 10 --device cpu --set model.width_factor=0.25 --set workers=1"
)
COMPARED = ("best.safetensors", "last.safetensors", "metrics.jsonl")


def ip(words):
    subprocess.run(["ip", *words.split()], check=True)


def lay_cable():
    for name in HOSTS:
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    ip("link add cable-a netns host-a type veth peer name cable-b netns host-b")
    for name, address in HOSTS.items():
        ip(f"-n {name} address add {address}/24 dev cable-{name[-1]}")
        ip(f"-n {name} link set cable-{name[-1]} up")


def write_pictures(root):
    for split, count in (("train", 20), ("val", 9)):
        for hue, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                colour = Image.new("HSV", (24, 24), (85 * hue, 200, 150)).convert("RGB")
                Image.blend(colour, Image.effect_noise((24, 24), 50 + number).convert("RGB"), 0.4).save(
                    folder / f"{number}.png"
                )


def train(data, out, epochs, timeout):
    words = f"-m resnetv2 train {data} --out {out} --epochs {epochs} {SETTINGS}"
    return shlex.split(f"{words} --set save_minutes=0 --set peer_timeout_s={timeout}")


def start(words, out):
    """Start one host's torchrun on each host; return the processes."""
    processes = []
    for name, address in HOSTS.items():
        launch = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-id={out.name}"]
        launch += [f"--rdzv-endpoint={HOSTS['host-a']}:29400", f"--local-addr={address}"]
        launch += [f"--rdzv-conf=is_host={int(name == 'host-a')}", *words]
        inside = f"hostname {name} && exec {shlex.join(launch)}"
        command = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", inside]
        env = {**os.environ, "GLOO_SOCKET_IFNAME": f"cable-{name[-1]}"}
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return processes


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it where a host has two processes, and not where it has one
    with tempfile.TemporaryDirectory() as folder:
        data, one, two, cut = (Path(folder) / name for name in ("pictures", "one", "two", "cut"))
        write_pictures(data)
        lay_cable()
        try:
            subprocess.run(
                [*TORCHRUN, "--standalone", "--nproc-per-node=2", *train(data, one, 3, 60)],
                check=True,
                capture_output=True,
            )
            for process in start(train(data, two, 3, 60), two):
                _, said = process.communicate()
                assert process.returncode == 0, said
            print("| file | two hosts against two processes of one |", "| --- | --- |", sep="\n")
            for name in COMPARED:
                same = (one / name).read_bytes() == (two / name).read_bytes()
                print(f"| {name} | {'the same bits' if same else 'DIFFERENT'} |")
            processes = start(train(data, cut, 1000, 10), cut)
            while not list(cut.glob("checkpoints/*")) and all(process.poll() is None for process in processes):
                time.sleep(0.1)
            ip("-n host-a link set cable-a down")
            time.sleep(60)  # long enough for both; the second host's torchrun itself waits for the first one's for good
            for name, process in zip(HOSTS, processes, strict=True):
                process.kill()
                for line in process.communicate(timeout=60)[1].splitlines():
                    if "resnetv2 train: error" in line or "exitcode" in line:
                        print(f"{name}, cable pulled: {line.strip()}")
        finally:
            for name in HOSTS:
                ip(f"netns del {name}")


if __name__ == "__main__":
    main()
