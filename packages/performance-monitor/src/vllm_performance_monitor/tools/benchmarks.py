"""benchmark-model and benchmark-providers."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Literal

import anyio
from anyio import to_thread
from pydantic import Field, SecretStr

from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import BadInput, ModelBusy, SuiteError
from vllm_mcp_protocol.model import Endpoint
from vllm_mcp_protocol.paths import state_dir
from vllm_mcp_protocol.serving.context import Progress, client_is_gone
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext, open_world
from vllm_mcp_protocol.settings import Settings
from vllm_performance_monitor.benchmarking.benchmark import OnStep, Order, Step, Target, benchmark
from vllm_performance_monitor.benchmarking.jobs import Job, Jobs, Work
from vllm_performance_monitor.benchmarking.results import Results
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop, OpenLoop
from vllm_performance_monitor.core.benchmarks.providers import Provider, origin, parse_provider
from vllm_performance_monitor.core.benchmarks.report import Report, Row
from vllm_performance_monitor.core.benchmarks.samples import Distribution
from vllm_performance_monitor.core.benchmarks.tables import render_comparison, render_levels, render_side_by_side
from vllm_performance_monitor.core.benchmarks.workload import Workload
from vllm_performance_monitor.results import BenchmarkResult, BenchmarkRow, QuantilesPart
from vllm_performance_monitor.workplace import Workplace

_MOST_RUNS = 20
"""A run takes up to 700 bytes of an answer, with its line of the table."""
_ASK_LIMIT_S = 10.0

Concurrency = Annotated[
    list[Annotated[int, Field(ge=1, le=1000)]] | None,
    Field(max_length=10, description="Users at a time, each of whom asks again when answered; one run for each"),
]
Requests = Annotated[int, Field(ge=1, le=10_000, description="Requests of each run")]
MaxSeconds = Annotated[float, Field(ge=1, le=3600, description="A run sends no more after so many seconds")]
InputTokens = Annotated[int | None, Field(ge=1, le=1_000_000, description="Tokens of a question (default: workload's)")]
OutputTokens = Annotated[int | None, Field(ge=1, le=100_000, description="Tokens of an answer (default: workload's)")]
WaitSeconds = Annotated[
    float, Field(ge=0, le=3600, description="Answer after so many seconds at the latest; the work goes on. 0: at once")
]
_Name = Annotated[str, Field(min_length=1, max_length=400)]


def register(server: SuiteServer, work: Workplace, jobs: Jobs) -> None:
    """Add both."""

    results = Results(state_dir(work.settings))

    @server.tool("benchmark-model", title="Measure a model's speed", annotations=open_world(WRITE))
    async def benchmark_model(
        ctx: ToolContext,
        model_id: Annotated[
            str | None, Field(min_length=1, max_length=400, description="A loaded model (see list-models)")
        ] = None,
        workload: Annotated[
            Literal["short", "long", "mixed"],
            Field(description="short: 128 tokens in and out; long: 4096 in, 256 out; mixed: around 1024 in, 128 out"),
        ] = "short",
        concurrency: Concurrency = None,
        request_rates: Annotated[
            list[Annotated[float, Field(gt=0, le=10_000)]] | None,
            Field(max_length=10, description="Instead: requests per second, however long answers take (Poisson)"),
        ] = None,
        requests: Requests = 100,
        input_tokens: InputTokens = None,
        output_tokens: OutputTokens = None,
        seed: Annotated[int, Field(ge=0, le=2**53, description="Of the lengths and arrivals")] = 0,
        max_seconds: MaxSeconds = 60,
        benchmark_id: Annotated[
            str | None, Field(min_length=1, max_length=60, description="Show this one, running or kept; start none")
        ] = None,
        cancel: Annotated[bool, Field(description="End benchmark_id with what it measured")] = False,
        wait_seconds: WaitSeconds = 45,
    ) -> BenchmarkResult:
        """Measure throughput, time to the first token, time between tokens and latency of a loaded model under several
        loads, beside the last run of the same kind. Takes minutes and loads the engine; call it with benchmark_id to
        follow.
        """
        if benchmark_id is not None:
            return await _earlier(ctx, jobs, results, benchmark_id, cancel=cancel, wait_s=wait_seconds)
        if model_id is None or cancel:
            raise BadInput(
                "cancel=true needs a benchmark_id." if cancel else "Neither model_id nor benchmark_id is given.",
                suggestion="name the model that is to be measured, or the benchmark that is to be shown",
            )
        order = Order(
            workload=Workload.of(workload, input_tokens=input_tokens, output_tokens=output_tokens, seed=seed),
            loads=_loads(concurrency, request_rates, seed),
            requests=requests,
            max_seconds=max_seconds,
        )
        return await _begin(ctx, jobs, results, _work(work, results, [model_id], [], order), wait_seconds)

    @server.tool("benchmark-providers", title="Compare the speed of servers", annotations=open_world(WRITE))
    async def benchmark_providers(
        ctx: ToolContext,
        providers: Annotated[
            list[_Name] | None,
            Field(
                max_length=8,
                description="vllm, ollama, lmstudio, llamacpp (here), openai, anthropic (with OPENAI_API_KEY, "
                "ANTHROPIC_API_KEY; they cost money), each with /model, or http://host:port#model",
            ),
        ] = None,
        model_ids: Annotated[list[_Name] | None, Field(max_length=8, description="Loaded models")] = None,
        test_prompts: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=100_000)]] | None,
            Field(max_length=100, description="Asked in turn (default: made-up texts of input_tokens)"),
        ] = None,
        concurrency: Concurrency = None,
        requests: Requests = 20,
        input_tokens: InputTokens = None,
        output_tokens: OutputTokens = None,
        max_seconds: MaxSeconds = 60,
        wait_seconds: WaitSeconds = 45,
    ) -> BenchmarkResult:
        """Measure several servers and models with the same questions, side by side: vLLM, Ollama, LM Studio, llama.cpp,
        OpenAI, Anthropic and every other OpenAI-compatible server. benchmark-model with benchmark_id follows it.
        """
        named = [parse_provider(one, work.settings.remote_endpoints()) for one in providers or []]
        if not named and not model_ids:
            raise BadInput("Nobody is named.", suggestion="name providers, model_ids, or both")
        order = Order(
            workload=Workload.of(
                "texts" if test_prompts else "short",
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                texts=test_prompts or (),
            ),
            loads=_loads(concurrency or [1], None, 0),
            requests=requests,
            max_seconds=max_seconds,
        )
        _check_runs((len(named) + len(model_ids or [])) * len(order.loads))
        return await _begin(ctx, jobs, results, _work(work, results, model_ids or [], named, order), wait_seconds)


def _loads(users: list[int] | None, rates: list[float] | None, seed: int) -> tuple[ClosedLoop | OpenLoop, ...]:
    """One for each, in the order given. By default closed loops that show where a server saturates."""
    if users is None and not rates:
        users = [1, 5, 10, 50, 100]
    closed = [ClosedLoop(concurrency=one) for one in dict.fromkeys(users or [])]
    return (*closed, *(OpenLoop(per_second=one, seed=seed) for one in dict.fromkeys(rates or [])))


def _check_runs(count: int) -> None:
    if count > _MOST_RUNS:
        raise BadInput(
            f"That makes {count} runs (servers times loads); one benchmark has {_MOST_RUNS} at most.",
            suggestion="name fewer servers or fewer values of concurrency",
        )


def _work(
    work: Workplace, results: Results, models: Sequence[str], providers: Sequence[Provider], order: Order
) -> Work:
    """What the job does: everybody is found first, then measured; each row is kept as it comes."""

    async def do(report_id: str, on_step: OnStep, cancel: anyio.Event) -> Report:
        async def keep(report: Report) -> None:
            await to_thread.run_sync(results.save, report)

        async with AsyncExitStack() as held:
            targets = [await _loaded(work, held, name) for name in models]
            targets += [await _elsewhere(work, one) for one in providers]
            report = await benchmark(targets, order, on_step=on_step, on_row=keep, cancel=cancel, report_id=report_id)
        return report

    return do


async def _loaded(work: Workplace, held: AsyncExitStack, name: str) -> Target:
    """An engine of the hub, which stays until the benchmark is done. Raises ModelNotLoaded."""
    endpoint = await held.enter_async_context((await work.ready()).lease(name))
    async with EngineHttp(endpoint, timeout_s=_ASK_LIMIT_S) as http:
        return Target(name, endpoint, version=await _version(http))


async def _elsewhere(work: Workplace, one: Provider) -> Target:
    """A server that the hub does not own. Raises BadInput without a key, EngineRequestFailed, EngineUnreachable."""
    secret = _key(work.settings, one)
    if one.paid and secret is None:
        variable = f"{one.name.upper()}_API_KEY"
        raise BadInput(
            f"{one.name} wants a key, and {variable} is not set.",
            suggestion=f"have the user set {variable} for vllm-performance-monitor in the client's configuration",
        )
    endpoint = Endpoint(url=one.url, api_key=secret, served_name=one.model or "")
    if one.paid:
        return Target(one.name, endpoint, one.api)
    async with EngineHttp(endpoint, timeout_s=_ASK_LIMIT_S) as http:
        version = await _version(http)
        model = one.model or await _only_model(http, one)
    return Target(one.name, endpoint.model_copy(update={"served_name": model}), one.api, version)


def _key(settings: Settings, one: Provider) -> SecretStr | None:
    """The key that belongs to this server and no other."""
    paid = {"openai": settings.openai_api_key, "anthropic": settings.anthropic_api_key}
    if one.paid:
        return paid[one.name]
    return next((remote.api_key for remote in settings.remote_engines() if origin(remote.url) == one.url), None)


async def _version(http: EngineHttp) -> str | None:
    """Of vLLM; others have no such route."""
    try:
        return await http.version() or None
    except SuiteError:
        return None


async def _only_model(http: EngineHttp, one: Provider) -> str:
    names = [str(found.get("id", "")) for found in await http.models()]
    if len(names) != 1:
        shown = ", ".join(names[:10]) or "none"
        raise BadInput(
            f"{one.name} serves {len(names)} models: {shown}.",
            suggestion=f"name one, as in {one.name}/MODEL or http://host:port#MODEL",
        )
    return names[0]


async def _begin(ctx: ToolContext, jobs: Jobs, results: Results, work: Work, wait_s: float) -> BenchmarkResult:
    running = jobs.running
    if running is not None:
        raise ModelBusy(
            f"Benchmark {running.id} is running ({running.step.message if running.step else 'beginning'}); "
            "two at a time would measure each other.",
            benchmark_id=running.id,
            suggestion=f"benchmark-model with benchmark_id={running.id} follows it, with cancel=true it ends",
        )
    return await _follow(ctx, results, jobs.start(work), wait_s, own=True)


async def _earlier(
    ctx: ToolContext, jobs: Jobs, results: Results, benchmark_id: str, *, cancel: bool, wait_s: float
) -> BenchmarkResult:
    job = jobs.get(benchmark_id)
    if job is None:
        report = await to_thread.run_sync(results.load, benchmark_id)
        return await to_thread.run_sync(_result, results, report, "done")
    if cancel:
        job.cancel.set()
    return await _follow(ctx, results, job, wait_s, own=False)


async def _follow(ctx: ToolContext, results: Results, job: Job, wait_s: float, *, own: bool) -> BenchmarkResult:
    """The job as it is after `wait_s`. A call that its user cancels ends the benchmark that it began."""
    progress = Progress(ctx)

    async def say(step: Step) -> None:
        await progress(step.done, step.total, step.message)

    try:
        await job.wait(wait_s, say)
    except anyio.get_cancelled_exc_class():
        if own and not client_is_gone(ctx):
            job.cancel.set()
        raise
    if job.report is None:
        return BenchmarkResult(
            benchmark_id=job.id,
            status="running",
            progress=job.step.message if job.step else "finding the servers",
            notes=[f"It goes on; benchmark-model with benchmark_id={job.id} follows it."],
        )
    return await to_thread.run_sync(_result, results, job.report, job.status)


def _result(
    results: Results, report: Report, status: Literal["running", "done", "failed", "cancelled"]
) -> BenchmarkResult:
    several = len({row.subject for row in report.rows}) > 1
    compared = [(row, found) for row in report.rows if (found := results.compare(report, row)) is not None]
    return BenchmarkResult(
        benchmark_id=report.id,
        status=status,
        seconds=round(report.seconds, 1),
        workload=report.workload.shown,
        rows=[_row(row) for row in report.rows],
        table=(render_side_by_side(report) if several else render_levels(report)).splitlines() if report.rows else [],
        beside_earlier=[line for row, found in compared for line in render_comparison(row, found).splitlines()][:40],
        path=str(results.folder / f"{report.id}.json") if report.rows else None,
        notes=[] if report.rows else ["Nothing was measured."],
    )


def _row(row: Row) -> BenchmarkRow:
    figures = row.summary
    return BenchmarkRow(
        server=row.subject.label,
        model=row.subject.model,
        load=row.load.shown,
        requests=figures.requests,
        failed=figures.failed,
        requests_per_second=round(figures.requests_per_second, 3),
        output_tokens_per_second=round(figures.output_tokens_per_second, 1),
        ttft_ms=_quantiles(figures.ttft_ms),
        itl_ms=_quantiles(figures.itl_ms),
        e2e_ms=_quantiles(figures.e2e_ms),
        ended_by=row.ended_by,
    )


def _quantiles(values: Distribution | None) -> QuantilesPart | None:
    if values is None:
        return None
    return QuantilesPart(p50=round(values.p50, 2), p95=round(values.p95, 2), p99=round(values.p99, 2))
