"""Runs one attempt as spec.json asks, and leaves result.json whatever happens."""

import argparse
import logging
import sys
import time
import traceback

from hone_trainer import CONTRACT, environment
from hone_trainer import spec as specs
from hone_trainer.contract import Controls, Exit, MetricsWriter, Paths, shortened, write_result
from hone_trainer.data.files import channel_files
from hone_trainer.data.prepare import channel_names
from hone_trainer.errors import Stopped, exit_code, retryable
from hone_trainer.model import check_model_dir
from hone_trainer.progress import Progress

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
        self.controls = Controls(paths.control)
        self.metrics: MetricsWriter | None = None
        self.spec = None
        self.session = None
        self._started = time.monotonic()

    def run(self) -> None:
        """Cheap checks first: a bad spec or an absent input fails before any import."""
        self.controls.install()
        self.metrics = MetricsWriter(self.paths.metrics, self.paths.attempt)
        spec = self.spec = specs.load(self.paths.spec)
        environment.configure_logging(spec.log_level)
        check_model_dir(self.paths.model)
        resumed = Progress.load(self.paths.resume) if self.paths.resume else None
        if resumed is not None:
            resumed.require_lineage(spec.lineage())
        for name in channel_names(spec):
            channel_files(self.paths.data, name)
        self._stop_if_asked()

        environment.quieten_transformers()
        from hone_trainer import train
        from hone_trainer.session import Session

        self.session = Session(spec, self.paths, self.metrics, self.controls)
        self._stop_if_asked()
        train.run(self.session, resumed)

    def _stop_if_asked(self) -> None:
        source = self.controls.stop_requested()
        if source:
            raise Stopped(source, saved=False)

    def finish(self, error: BaseException | None) -> Exit:
        """Writes the last records and result.json; gives the exit code."""
        code = Exit.COMPLETED if error is None else exit_code(error)
        status = "completed" if error is None else "interrupted" if isinstance(error, Stopped) else "failed"
        reason = "finished as specified" if error is None else str(error) or type(error).__name__
        reason = shortened(self._shape_that_failed(code) + reason, MESSAGE_BYTES)
        word = {"status": status, "code": int(code), "reason": reason, "retryable": retryable(code)}
        word |= {"wall_s": round(time.monotonic() - self._started, 3)}
        word["error"] = _describe(error) if status == "failed" else None
        try:
            try:
                self._leave(word | self._memory(code) | self._progress())
            except (OSError, MemoryError):
                raise
            except Exception:  # whatever the counters hold, the word itself is owed
                log.exception("the result is cut down to its essentials")
                write_result(self.paths, word | _nothing_known())
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
        found = {name: getattr(train, name) for name in ("micro_batch", "accumulation", "seq_len")}
        if self.session is not None:
            from hone_trainer.peaks import so_far

            found |= {"probe_peak_bytes": self.session.probed.get(peak), "peak_bytes": so_far().get(peak)}
        return found

    def _leave(self, result: dict) -> None:
        if self.metrics is not None:
            self.metrics.write("end", result["step"], status=result["status"], reason=result["reason"])
            self.metrics.close()
        write_result(self.paths, result)

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


def _describe(error: BaseException | None) -> dict | None:
    if error is None:
        return None
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
    environment.prepare(paths)
    attempt = Attempt(paths)
    try:
        attempt.run()
        failure = None
    except BaseException as error:  # the last word is owed for every ending
        failure = error
        if isinstance(error, Stopped):
            log.info("%s", error)
        elif exit_code(error) == Exit.INTERNAL:
            log.exception("the attempt failed")
        else:
            log.error("%s", error)
    return attempt.finish(failure)


if __name__ == "__main__":
    sys.exit(main())
