"""A small shop with OpenTelemetry as people set it up: Flask and SQLAlchemy
instrumented, with query comments, exported over OTLP.

    app.py [PORT]        prints "listening on PORT" when it answers

DATABASE_URL names the database, as SQLAlchemy writes it; where to export, how
and how often is in the usual OTEL_* variables. SIGTERM ends it, with everything
exported.
"""

import os
import signal
import sys

from flask import Flask, jsonify, request
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import create_engine, text
from werkzeug.serving import make_server

if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "http/protobuf":
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

resource = Resource.create()
tracing = TracerProvider(resource=resource)
tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(tracing)
metering = MeterProvider(
    resource=resource,
    metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())],
)
metrics.set_meter_provider(metering)

app = Flask("shop")
engine = create_engine(os.environ["DATABASE_URL"], pool_size=20, max_overflow=40)
FlaskInstrumentor().instrument_app(app, enable_commenter=True)
SQLAlchemyInstrumentor().instrument(engine=engine, enable_commenter=True)


def ask(statement, **values):
    with engine.connect() as connection:
        return connection.execute(text(statement), values).scalar()


@app.get("/users/<int:user>")
def user(user):
    return jsonify(id=ask("SELECT :id + 0", id=user))


@app.post("/orders")
def orders():
    return jsonify(id=ask("SELECT 7")), 201


@app.get("/reports/<name>")
def report(name):
    """Two statements of SECONDS each, 0.05 where the query does not say."""
    seconds = float(request.args.get("seconds", "0.05"))
    for _ in range(2):
        ask("SELECT 1 FROM pg_sleep(:seconds)", seconds=seconds)
    return jsonify(name=name)


@app.get("/health")
def health():
    return "ok"


def stop(*_):
    raise SystemExit


signal.signal(signal.SIGTERM, stop)
server = make_server("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, app, threaded=True)
print(f"listening on {server.server_port}", flush=True)
try:
    server.serve_forever()
finally:
    tracing.shutdown()
    metering.shutdown()
