"""Do DiffusionNFT's losses, FlowGRPO's steps and GenEval's summary equal the references' own numbers?

Source: NVlabs/DiffusionNFT@24af555 scripts/train_nft_sd3.py, flow_grpo/; djghosh13/geneval@af4902f
evaluation/summary_scores.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nftbench.certify import FLOW_GRPO, NFT, STATISTICS
from nftbench.stats.estimates import clustered_mean, stratified_mean, task_mean
from nftbench.stats.intervals import MetricRange
from nftbench.training.algorithms.nft import (
    ema_decay,
    group_advantages,
    nft_loss,
    old_decay,
    optimality,
    velocity_kl,
)
from nftbench.training.algorithms.sde_sampler import SdeScheduler, log_prob, sde_transition
from rewards.base import ConfigError
from rewards.certify import Check, Checks, compare
from rewards.certify.code import modules_digest
from rewards.certify.preprocessing import golden_file, read_golden
from rewards.certify.run import Certificate, certificate_of, run_check

TRAINER = "NVlabs/DiffusionNFT@24af555 scripts/train_nft_sd3.py"
STAT_TRACKING = "NVlabs/DiffusionNFT@24af555 flow_grpo/stat_tracking.py"
SOLVER = "NVlabs/DiffusionNFT@24af555 flow_grpo/diffusers_patch/solver.py"
SUMMARY = "djghosh13/geneval@af4902f evaluation/summary_scores.py"

# --- DiffusionNFT ---------------------------------------------------------------------------------


def losses(folder: Path) -> Iterator[Check]:
    """Loss, KL and gradient of one timestep, relative to the largest of each case."""
    cases = read_golden(folder, "nft_loss.json")["cases"]
    with np.load(golden_file(folder, "nft_loss.npz")) as arrays:
        found = [(case, _loss(case, arrays)) for case in cases]
    for dtype, relative, of_gradient in (("float64", 1e-12, 1e-11), ("float32", 2e-5, 2e-5)):
        mine = [pair for pair in found if pair[0]["dtype"] == dtype]
        for name in ("ori_policy_loss", "kl_per_sample", "total_loss", "gradient"):
            errors = [_relative(loss[name], loss["theirs"][name]) for _, loss in mine]
            tolerance = of_gradient if name == "gradient" else relative
            yield compare(
                f"{name}, {dtype}, relative error of {len(mine)} cases",
                errors,
                np.zeros(len(errors)),
                tolerance=tolerance,
                reference=TRAINER,
            )


def _relative(ours: Any, theirs: Any) -> float:
    ours, theirs = (np.asarray(x, dtype=np.float64) for x in (ours, theirs))
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def _loss(case: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    dtype, out = getattr(torch, case["dtype"]), case["out"]
    v_theta, v_old, v_ref, x_0, eps = (
        torch.tensor(arrays[f"{case['base']}/{name}"], dtype=dtype)
        for name in ("v_theta", "v_old", "v_ref", "x0", "noise")
    )
    t = (torch.tensor(case["timesteps"], dtype=dtype) / 1000)[:, None, None, None]
    r, v_theta = torch.tensor(out["r"], dtype=dtype), v_theta.requires_grad_()
    loss = nft_loss(v_theta, v_old, x_0, (1 - t) * x_0 + t * eps, t, r, beta=case["beta"])
    kl = velocity_kl(v_theta, v_ref)
    total = case["adv_clip_max"] * loss.mean() + case["kl_weight"] * kl.mean()
    total.backward()
    assert v_theta.grad is not None, "a loss without a gradient"
    scale = max(out["grad_abs_max"], 1e-300)
    return {
        "ori_policy_loss": loss.detach(),
        "kl_per_sample": kl.detach(),
        "total_loss": total.detach(),
        "gradient": v_theta.grad / scale,
        "theirs": {
            "ori_policy_loss": out["ori_policy_loss"],
            "kl_per_sample": out["kl_per_sample"],
            "total_loss": out["total_loss"],
            "gradient": arrays[f"{case['id']}/grad"] / scale,
        },
    }


def advantages(folder: Path) -> Iterator[Check]:
    """Advantages by the batch's and by the group's spread, and optimality; groups without spread are 0 here."""
    cases = [c for c in read_golden(folder, "advantages.json")["cases"] if _one_a_sample(c)]
    for std, field, other in (("batch", "batch", "global_std"), ("group", "group", "group_std")):
        pairs = [_advantages(case, std, _either(case, field, other)) for case in cases]
        ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
        yield compare(
            f"advantages, spread of the {std}",
            ours,
            theirs,
            tolerance=1e-11,
            reference=STAT_TRACKING,
        )
    ours = [optimality(group_advantages(np.array(c["rewards"]), c["prompts"])) for c in cases]
    theirs = [c.get("r", c.get("r_from_global_std_clip5")) for c in cases]
    yield compare(
        "optimality",
        np.concatenate(ours),
        np.concatenate(theirs),
        tolerance=1e-10,
        reference=TRAINER,
    )


def _either(case: Mapping[str, Any], field: str, other: str) -> Any:
    """The reference's advantages, in either layout of the golden file."""
    return case[field] if field in case else case[other]["advantages"]


def _one_a_sample(case: Mapping[str, Any]) -> bool:
    """Rewards that are repeated along time are not ours: training has one reward an image."""
    return np.ndim(case["rewards"]) == 1


def _advantages(case: Mapping[str, Any], std: Any, theirs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of samples whose group has a spread; elsewhere the reference divides rounding noise by 1e-4."""
    rewards, groups = np.array(case["rewards"]), np.array(case["prompts"])
    spread = np.array([np.ptp(rewards[groups == g]) > 0 for g in groups])
    ours = group_advantages(rewards, case["prompts"], std=std)
    return ours[spread], np.array(theirs, dtype=np.float64)[spread]


def schedules(folder: Path) -> Iterator[Check]:
    """Decays of the old policy and of the moving average."""
    golden = read_golden(folder, "schedules.json")
    old = golden["return_decay"]
    for number, name in enumerate(("copy", "linear_to_0.5", "delayed_to_0.999")):
        ours = [old_decay(name, step) for step in old["steps"]]
        theirs = old["decay"][str(number)]
        yield compare(f"old policy, {name}", ours, theirs, tolerance=0, reference=TRAINER)
    ema = golden["ema_decay"]
    for maximum, theirs in ema["by_max_decay"].items():
        ours = [ema_decay(step, maximum=float(maximum)) for step in ema["steps"]]
        name = f"moving average up to {maximum}"
        yield compare(name, ours, theirs, tolerance=0, reference=TRAINER)


# --- FlowGRPO -------------------------------------------------------------------------------------


def steps(folder: Path) -> Iterator[Check]:
    """Single float64 steps of the flow solver: the next latents and their log density."""
    golden = read_golden(folder, "solvers.json")
    cases = [c for c in golden["float64_steps"] if c["fn"] == "flow_grpo_step"]
    ours: dict[str, list[Tensor]] = {"prev_sample": [], "log_prob": []}
    theirs: dict[str, list[np.ndarray]] = {"prev_sample": [], "log_prob": []}
    with np.load(golden_file(folder, "solvers.npz")) as arrays:
        for case in cases:
            x, v, z = (torch.from_numpy(arrays[f"{case['id']}/{n}"]) for n in ("x", "v", "noise"))
            step = sde_transition(
                x,
                v,
                case["sigma"],
                case["sigma_next"],
                noise_level=case["eta"],
                sigma_1=case["sigma_1"],
            )
            x_next = step.mean + step.std * z
            ours["prev_sample"].append(x_next.flatten())
            ours["log_prob"].append(log_prob(x_next, step).flatten())
            for name, found in theirs.items():
                found.append(arrays[f"{case['id']}/{name}"].ravel())
    for name, tolerance in (("prev_sample", 1e-11), ("log_prob", 5e-8)):
        yield compare(
            f"{name} of {len(cases)} flow steps in float64",
            torch.cat(ours[name]),
            np.concatenate(theirs[name]),
            tolerance=tolerance,
            reference=SOLVER,
        )


class _Replayed(SdeScheduler):
    """Takes its noise from a recording."""

    recorded: Tensor

    def noise(self, x: Tensor) -> Tensor:
        step = self.step_index
        assert step is not None  # noise is asked for within a step
        return self.recorded[step - 1]


def runs(folder: Path) -> Iterator[Check]:
    """Whole runs of the flow solver, with and without noise: latents over their largest, and log densities."""
    golden = read_golden(folder, "solvers.json")
    flow = [c for c in golden["cases"] if c.get("solver", "flow") == "flow" and not c.get("raises")]
    with np.load(golden_file(folder, "solvers.npz")) as arrays:
        for case in flow:
            if case.get("dtype", "float32") == "float32":
                yield from _run(case, arrays)


def _run(case: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[Check]:
    M, b, x = (torch.from_numpy(arrays[case[name]]).float() for name in ("M", "b", "z"))
    scheduler = _Replayed(shift=3.0)
    scheduler.set_timesteps(case["steps"])
    scheduler.noise_level = 0 if case["deterministic"] else case["eta"]
    if not case["deterministic"]:
        scheduler.recorded = torch.from_numpy(arrays[f"{case['id']}/noise"])
    latents = [x]
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):  # pyright: ignore[reportArgumentType]
        v = torch.einsum("cd,bdhw->bchw", M, x)
        v = v + b[:, None, None] * torch.sin(3 * x + 2 * sigma)
        (x,) = scheduler.step(v, t, x, return_dict=False)
        latents.append(x)
    kept = case.get("latents_stored_at", range(len(latents)))
    kind = "deterministic" if case["deterministic"] else f"noise level {case['eta']:g}"
    name = f"{case['steps']} steps, {kind}"
    yield compare(
        f"latents of {name}",
        torch.stack([latents[i] for i in kept]),
        arrays[f"{case['id']}/latents"],
        tolerance=1e-5,
        relative=True,
        reference=SOLVER,
    )
    if scheduler.transitions:
        ours = torch.stack([step.log_prob for step in scheduler.transitions])
        order = [step.index for step in scheduler.transitions]
        theirs = arrays[f"{case['id']}/log_probs"].T
        theirs = (theirs if len(theirs) == case["steps"] else theirs.T)[order]
        yield compare(f"log densities of {name}", ours, theirs, tolerance=1e-5, reference=SOLVER)


# --- statistics -----------------------------------------------------------------------------------

RIGHT_OR_WRONG = MetricRange(low=0, high=1, piles_up=True)


def summaries(folder: Path) -> Iterator[Check]:
    """GenEval's means: over images, over the tasks, and each task's."""
    ours: dict[str, list[float]] = {"tasks": [], "images": [], "one task": []}
    theirs: dict[str, list[float]] = {"tasks": [], "images": [], "one task": []}
    for case in read_golden(folder, "metrics_geneval_summary.json")["cases"]:
        prompts = np.array([prompt for prompt, _ in case["rows"]])
        values = np.array([correct for _, correct in case["rows"]], dtype=np.float32)
        tasks, out = np.array(_tags(case))[prompts], case["out"]
        ours["tasks"].append(task_mean(values, prompts, tasks, RIGHT_OR_WRONG).value)
        theirs["tasks"].append(out["overall"])
        ours["images"].append(stratified_mean(values, prompts, tasks, RIGHT_OR_WRONG).value)
        theirs["images"].append(out["correct_images"])
        for task, score in out["task_scores"].items():
            mine = tasks == task
            ours["one task"].append(
                clustered_mean(values[mine], prompts[mine], RIGHT_OR_WRONG).value
            )
            theirs["one task"].append(score)
    for name, found in ours.items():
        yield compare(f"mean over {name}", found, theirs[name], tolerance=1e-12, reference=SUMMARY)


def _tags(case: Mapping[str, Any]) -> Sequence[str]:
    return case["tags"] if "tags" in case else [tag for tag, _ in case["prompts"]]


# --- certificates ---------------------------------------------------------------------------------

ALGORITHMS: dict[str, tuple[str, tuple[Checks, ...]]] = {
    NFT: ("nftbench.training.algorithms.nft", (losses, advantages, schedules)),
    FLOW_GRPO: ("nftbench.training.algorithms.sde_sampler", (steps, runs)),
    STATISTICS: ("nftbench.stats.estimates", (summaries,)),
}
"""Name -> the module that is certified, and its checks."""


def certify(names: Sequence[str], folder: Path) -> Iterator[Certificate]:
    """Run the checks of algorithms.

    Args:
        names: of `ALGORITHMS`.
        folder: of golden numbers.

    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"not a folder: {folder}; expected the folder of the golden numbers.")
    for name in names:
        module, checks = ALGORITHMS[name]
        outcomes = [run_check(check, folder) for check in checks]
        troubles = "; ".join(dict.fromkeys(o.trouble for o in outcomes if o.trouble))
        verdict = "partly: not all could be compared" if troubles else "equal"
        digest = modules_digest(module)
        yield certificate_of(name, outcomes, verdict, troubles, full=not troubles, code=digest)
