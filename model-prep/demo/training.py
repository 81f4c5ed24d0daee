"""The training loop of all steps: optimisers, schedule, averaged weights, a state to resume from, a log and its plot."""

import copy
import json
import math
import time

import torch

# Half precision is used if the machine has matrix units for it. A CPU with bf16 instructions only is faster without (AVX-512:
# 18 ms instead of 24 ms an image), and emulation takes twenty times as long. Muon's own products always use it.
CPU_HALF = torch.cpu._is_amx_tile_supported()
HALF = torch.cuda.is_available() or CPU_HALF
MUON = HALF or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def begin(arguments):
    """Sets threads and seeds and returns the device."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    return device


def add_arguments(parser):
    parser.add_argument("--work", required=True, help="folder for the output of all steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; the next call resumes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)


def hidden(name, parameter):
    """Whether a parameter is a matrix between hidden states, as Muon requires."""
    return parameter.ndim == 2 and "embeddings" not in name


class Run:
    """One training run of `modules`, `steps` long: `for step in run: ...; run.step(loss)`.

    The learning rate rises over the first hundredth, stays, and falls linearly to 0 over the last `cooling` of all steps.
    """

    def __init__(self, modules, steps, path, rate, arguments, average=0.999, weight_decay=0.05, cooling=0.5):
        self.modules, self.steps, self.path = modules, steps, path
        self.seconds_max, self.started = arguments.minutes * 60, time.monotonic()
        self.average, self.cooling, self.at, self.log = average, cooling, 0, []
        named = list(modules.named_parameters())
        matrices = [p for n, p in named if hidden(n, p)]
        rest = [p for n, p in named if not hidden(n, p) and p.ndim > 1]
        scalars = [p for n, p in named if p.ndim <= 1]
        self.optimizers = []
        # The learning rate has the same meaning in both: the root mean square of an update.
        if MUON:
            self.optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        else:
            rest = matrices + rest
        self.optimizers.append(
            torch.optim.AdamW([{"params": rest, "weight_decay": weight_decay}, {"params": scalars, "weight_decay": 0.0}],
                              lr=rate, betas=(0.9, 0.98), fused=True))
        self.rate = rate
        self.averaged = copy.deepcopy(modules).eval().requires_grad_(False)
        if path.exists():
            state = torch.load(path, map_location=next(modules.parameters()).device, weights_only=True)
            modules.load_state_dict(state["modules"])
            self.averaged.load_state_dict(state["averaged"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"]):
                optimizer.load_state_dict(saved)
            self.at, self.log = state["at"], state["log"]
            print(f"{path}: resumed at step {self.at} of {steps}", flush=True)

    def __iter__(self):
        while self.at < self.steps and time.monotonic() - self.started < self.seconds_max:
            # Each step has its own seed, so that a resumed run equals an uninterrupted one.
            torch.manual_seed(self.at)
            rising = min(1.0, (self.at + 1) / max(1, self.steps // 100))
            falling = min(1.0, (self.steps - self.at) / max(1, self.cooling * self.steps))
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.rate * rising * falling
            yield self.at
        self.save()
        if self.at < self.steps:
            print(f"stopped at step {self.at} of {self.steps}; the same command resumes", flush=True)

    @property
    def done(self):
        return self.at >= self.steps

    def step(self, loss, **figures):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.at += 1
        # Early in a run, a long average would mostly be the initial weights.
        kept = min(self.average, (1 + self.at) / (10 + self.at))
        with torch.no_grad():
            mine, theirs = list(self.averaged.parameters()), list(self.modules.parameters())
            torch._foreach_lerp_(mine, theirs, 1 - kept)
        if self.at % 50 == 0:
            figures = {name: round(float(value), 4) for name, value in figures.items()}
            self.note(loss=round(loss.item(), 4), **figures)
        if self.at % 500 == 0:
            self.save()

    def note(self, **figures):
        """Prints a line of progress and keeps it for the plot."""
        self.log.append({"step": self.at, **figures})
        words = " ".join(f"{name} {value}" for name, value in figures.items())
        minutes = (time.monotonic() - self.started) / 60
        print(f"step {self.at}/{self.steps}  {minutes:.1f} min  {words}", flush=True)

    def save(self):
        state = {
            "modules": self.modules.state_dict(), "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "at": self.at, "log": self.log,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.path)
        plot(self.log, self.path.with_suffix(".svg"))
        self.path.with_suffix(".json").write_text(json.dumps(self.log))


def plot(log, path):
    """Plots every figure of the log over the steps."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in dict.fromkeys(name for line in log for name in line) if name != "step"]
    if not names:
        return
    figure, axes = pyplot.subplots(len(names), sharex=True, figsize=(8, 1.6 * len(names)), squeeze=False)
    for axis, name in zip(axes[:, 0], names):
        lines = [line for line in log if name in line]
        axis.plot([line["step"] for line in lines], [line[name] for line in lines], linewidth=1)
        axis.set_ylabel(name)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
