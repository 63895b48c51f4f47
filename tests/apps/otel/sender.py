"""Sends one span over OTLP and prints what became of it: SUCCESS or FAILURE.

Where to and how is in the usual OTEL_* variables.
"""

import os

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter


class Tell(SpanProcessor):
    def on_end(self, span):
        print(OTLPSpanExporter().export([span]).name, flush=True)


provider = TracerProvider(resource=Resource.create())
provider.add_span_processor(Tell())
attributes = {"http.request.method": "GET", "http.route": "/sent"}
with provider.get_tracer("sender").start_as_current_span(
    "GET /sent", kind=SpanKind.SERVER, attributes=attributes
):
    pass
