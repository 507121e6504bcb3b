"""Runs one attempt as spec.json asks, and leaves result.json whatever happens."""

import argparse
import dataclasses
import logging
import os
import sys
import time
import traceback

from hone_trainer import CONTRACT, environment, ranks
from hone_trainer import spec as specs
from hone_trainer.contract import Controls, Exit, MetricsWriter, Paths, shortened, write_result
from hone_trainer.data.files import channel_files
from hone_trainer.data.prepare import channel_names
from hone_trainer.errors import SpecError, Stopped, exit_code, retryable
from hone_trainer.group import Abandoned, Group, NoMetrics
from hone_trainer.model import check_model_dir
from hone_trainer.progress import Progress
from hone_trainer.traces import known_from_records

log = logging.getLogger("hone_trainer")

# As JSON. The agent passes a result of up to 8 KiB on, all in all.
TRACE_BYTES = 4096
MESSAGE_BYTES = 1024
# Endings for lack of memory: whose it is, and its name in records.
_MEMORY = {
    Exit.GPU_MEMORY: ("GPU memory", "gpu_mem_peak_bytes"),
    Exit.HOST_MEMORY: ("memory", "host_mem_peak_bytes"),
}


class Attempt:
    """Carries what the final word needs, however far things came."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.group = Group()
        # What is asked of the attempt is asked of rank 0.
        self.controls = Controls(self.group.folder / "control" if self.group.rank else paths.control)
        self.metrics: MetricsWriter | NoMetrics | None = None
        self.spec = None
        self.session = None
        # What the ranks said, where there are several and this process only started them.
        self.word: dict | None = None
        self._started = time.monotonic()

    def run(self) -> None:
        """Cheap checks first: a bad spec or an absent input fails before any import."""
        self.group.install(self.controls)
        if self.group.rank:
            self.metrics = NoMetrics()
            # Reports are rank 0's too; what this one writes goes with its folder.
            self.paths = dataclasses.replace(self.paths, metrics=self.group.folder / f"metrics-{self.group.rank}")
            self.paths.metrics.mkdir()
        else:
            self.metrics = MetricsWriter(self.paths.metrics, self.paths.attempt)
        spec = self.spec = specs.load(self.paths.spec)
        environment.configure_logging(spec.log_level, self.group.rank)
        check_model_dir(self.paths.model)
        resumed = Progress.load(self.paths.resume) if self.paths.resume else None
        if resumed is not None:
            resumed.require_lineage(spec.lineage())
        for name in channel_names(spec):
            channel_files(self.paths.data, name)
        if spec.train.sharding and environment.processes() == 1:
            raise SpecError(
                "train.sharding spreads a model over several GPUs, and this attempt has one process: "
                "raise resources.gpus.count, or set sharding to none"
            )
        self._stop_if_asked()
        if environment.processes() > 1 and self.group.folder is None:
            self._run_ranks(environment.processes())
            return

        environment.quieten_transformers()
        from hone_trainer import train
        from hone_trainer.session import Session

        self.group.join()
        self.session = Session(spec, self.paths, self.metrics, self.controls, self.group)
        self._stop_if_asked()
        train.run(self.session, resumed)
        self.group.leave()

    def _run_ranks(self, count: int) -> None:
        # One writer at a time: rank 0 goes on with the file, and it is taken up again for the last record.
        self.metrics.close()
        self.metrics = None
        log.info("training with %d processes", count)
        try:
            self.word = ranks.run(count, self.controls)
        finally:
            self.metrics = MetricsWriter(self.paths.metrics, self.paths.attempt)
        if self.word["status"] != "completed":
            log.error("%s", self.word["reason"])

    def _stop_if_asked(self) -> None:
        source = self.controls.stop_requested()
        if source:
            raise Stopped(source, saved=False)

    def finish(self, error: BaseException | None) -> Exit:
        """Writes the last records and result.json; gives the exit code."""
        word = _word(error) if self.word is None else _nothing_known() | known_from_records(self.paths) | self.word
        code = Exit(word["code"])
        if self.word is None:
            word["reason"] = shortened(self._shape_that_failed(code) + word["reason"], MESSAGE_BYTES)
        word |= {"wall_s": round(time.monotonic() - self._started, 3)}
        if self.group.folder is not None:
            word |= {"ended": time.time(), "abandoned": isinstance(error, Abandoned)}
        try:
            try:
                known = {} if self.word is not None else self._memory(code) | self._progress()
                self._leave(word | known)
            except (OSError, MemoryError):
                raise
            except Exception:  # whatever the counters hold, the word itself is owed
                log.exception("the result is cut down to its essentials")
                self._write(word | _nothing_known())
        except (OSError, MemoryError) as failure:
            log.error("cannot write the result: %s", failure)
            return Exit.CANNOT_WRITE if code == Exit.COMPLETED else code
        return code

    def _shape_that_failed(self, code: Exit) -> str:
        if code not in _MEMORY or self.spec is None:
            return ""
        train = self.spec.train
        shape = f"micro_batch {train.micro_batch}, accumulation {train.accumulation}, seq_len {train.seq_len}"
        return f"out of {_MEMORY[code][0]} at {shape}: "

    def _memory(self, code: Exit) -> dict:
        """Where memory ran out: what a next attempt may trade, the probe's peak (null if it did not fit), and ours."""
        if code not in _MEMORY or self.spec is None:
            return {}
        train, peak = self.spec.train, _MEMORY[code][1]
        found = {name: getattr(train, name) for name in ranks.SHAPE}
        if self.session is not None:
            from hone_trainer.peaks import so_far

            found |= {"probe_peak_bytes": self.session.probed.get(peak), "peak_bytes": so_far().get(peak)}
        return found

    def _leave(self, result: dict) -> None:
        if self.metrics is not None:
            if self.group.folder is None:
                self.metrics.write("end", result["step"], status=result["status"], reason=result["reason"])
            self.metrics.close()
        self._write(result)

    def _write(self, result: dict) -> None:
        if self.group.folder is None:
            write_result(self.paths, result)
        else:
            ranks.leave_word(self.group.folder, self.group.rank, result)

    def _progress(self) -> dict:
        session = self.session
        if session is None:
            return _nothing_known()
        progress, best = session.progress, session.progress.best
        best_path = self.paths.output / f"checkpoint-{best['step']}" if best else None
        metrics = {"loss": session.last_loss}
        for prefix, score in (("base_", session.base()), ("", session.tuned)):
            if score:
                metrics |= {prefix + name: value for name, value in score.values().items()}
        return {
            "step": progress.step,
            "max_steps": progress.max_steps or None,
            "epoch": progress.epoch,
            "tokens_seen": progress.tokens_seen,
            "last_checkpoint": session.last_checkpoint,
            "best_checkpoint": str(best_path) if best_path and best_path.is_dir() else None,
            "best_metric": best,
            "package": session.package,
            "metrics": metrics,
        }


def _nothing_known() -> dict:
    empty = dict.fromkeys(("last_checkpoint", "best_checkpoint", "best_metric", "max_steps", "epoch", "package"))
    return {"step": 0, "tokens_seen": 0, "metrics": {}, **empty}


def _word(error: BaseException | None) -> dict:
    code = Exit.COMPLETED if error is None else exit_code(error)
    status = "completed" if error is None else "interrupted" if isinstance(error, Stopped) else "failed"
    reason = "finished as specified" if error is None else str(error) or type(error).__name__
    reason = shortened(reason, MESSAGE_BYTES)
    word = {"status": status, "code": int(code), "reason": reason, "retryable": retryable(code)}
    return word | {"error": _describe(error) if status == "failed" else None}


def _describe(error: BaseException) -> dict:
    message = shortened(str(error), MESSAGE_BYTES)
    # The end of a trace names the failure; the beginning is this file.
    trace = shortened("".join(traceback.format_exception(error)), TRACE_BYTES, keep_end=True)
    return {"type": type(error).__name__, "message": message, "trace": trace}


def main() -> int:
    """Everything of this process; the exit code is the return value."""
    parser = argparse.ArgumentParser(prog="hone_trainer", description=__doc__)
    parser.add_argument("--contract", action="store_true", help="print the contract's version and exit")
    if parser.parse_args().contract:
        print(CONTRACT)
        return Exit.COMPLETED
    environment.configure_logging("info")
    try:
        paths = Paths.from_env()
    except ValueError as error:
        log.error("HONE_ATTEMPT or HONE_GRACE_SECONDS: %s", error)
        return Exit.USAGE
    try:
        environment.prepare(paths)
    except ValueError as error:
        log.error("HONE_PROCESSES or HONE_GPU_COUNT: %s", error)
        return Exit.USAGE
    attempt = Attempt(paths)
    try:
        attempt.run()
        failure = None
    except BaseException as error:  # the last word is owed for every ending
        attempt.group.deaf()
        failure = error
        if isinstance(error, (Stopped, Abandoned)):
            log.info("%s", error)
        elif exit_code(error) == Exit.INTERNAL:
            log.exception("the attempt failed")
        else:
            log.error("%s", error)
    code = attempt.finish(failure)
    if attempt.group.rank and isinstance(failure, Stopped):
        # All ranks stop at one step. Were this a failure, rank 0 would be ended in the middle of its last records.
        code = Exit.COMPLETED
    if attempt.group.folder is not None and failure is not None:
        # Not the usual way out: it may wait for ranks that have gone.
        logging.shutdown()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
