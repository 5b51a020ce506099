"""gRPC core's side of the interop cases, by its Python package.

    core.py serve PORT DESCRIPTORS
    core.py call CASE HOST PORT DESCRIPTORS

DESCRIPTORS is a file with the encoded google.protobuf.FileDescriptorSet of
grpc.testing, from which the messages are made: no code is generated.
"""

import queue
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "grpc.testing.TestService"
# Each sleeping call holds a thread.
MAX_THREADS = 256
# How long one call may take, in seconds.
CALL_TIMEOUT = 20

# A HealthCheckResponse with the status SERVING.
SERVING = b"\x08\x01"

INITIAL = "x-grpc-test-echo-initial"
INITIAL_VALUE = "test_initial_metadata_value"
TRAILING = "x-grpc-test-echo-trailing-bin"
TRAILING_VALUE = b"\x0a\x0b\x0a\x0b\x0a\x0b"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP \U0001f608\t\n"
REQUESTS = [27182, 8, 1828, 45904]
RESPONSES = [31415, 9, 2653, 58979]
LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Messages:
    """The messages of grpc.testing, as attributes."""

    def __init__(self, file):
        with open(file, "rb") as data:
            files = descriptor_pb2.FileDescriptorSet.FromString(data.read())
        self._pool = descriptor_pool.DescriptorPool()
        for each in files.file:
            self._pool.Add(each)

    def __getattr__(self, name):
        found = self._pool.FindMessageTypeByName(f"grpc.testing.{name}")
        return message_factory.GetMessageClass(found)


def methods(messages):
    """Each method: its request and response, and which of them are streams."""
    simple = messages.SimpleRequest, messages.SimpleResponse
    outputs = messages.StreamingOutputCallRequest, messages.StreamingOutputCallResponse
    inputs = messages.StreamingInputCallRequest, messages.StreamingInputCallResponse
    return {
        "EmptyCall": (messages.Empty, messages.Empty, "unary_unary"),
        "UnaryCall": (*simple, "unary_unary"),
        "StreamingOutputCall": (*outputs, "unary_stream"),
        "StreamingInputCall": (*inputs, "stream_unary"),
        "FullDuplexCall": (*outputs, "stream_stream"),
        "UnimplementedCall": (messages.Empty, messages.Empty, "unary_unary"),
    }


# The server.


class Server:
    def __init__(self, messages):
        self.messages = messages

    def handlers(self):
        implemented = {
            "EmptyCall": lambda request, context: self.messages.Empty(),
            "UnaryCall": self.unary,
            "StreamingOutputCall": self.outputs,
            "StreamingInputCall": self.inputs,
            "FullDuplexCall": self.duplex,
        }
        table = {}
        for name, (request, response, kind) in methods(self.messages).items():
            if name in implemented:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                table[name] = make(
                    implemented[name],
                    request_deserializer=request.FromString,
                    response_serializer=response.SerializeToString,
                )
        return grpc.method_handlers_generic_handler(SERVICE, table)

    def unary(self, request, context):
        echo_metadata(context)
        echo_status(request, context)
        compressed = request.response_compressed.value
        context.set_compression(grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression)
        response = self.messages.SimpleResponse(server_id="core" if request.fill_server_id else "")
        response.payload.body = bytes(request.response_size)
        return response

    def outputs(self, request, context):
        echo_status(request, context)
        if any(each.compressed.value for each in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        over = threading.Event()
        context.add_callback(over.set)
        for each in request.response_parameters:
            # A sleep that ends with the call, as a Python handler would have it.
            if each.interval_us and over.wait(each.interval_us / 1e6):
                return
            if not each.compressed.value:
                context.disable_next_message_compression()
            response = self.messages.StreamingOutputCallResponse()
            response.payload.body = bytes(each.size)
            yield response

    def inputs(self, requests, context):
        total = sum(len(request.payload.body) for request in requests)
        return self.messages.StreamingInputCallResponse(aggregated_payload_size=total)

    def duplex(self, requests, context):
        echo_metadata(context)
        for request in requests:
            yield from self.outputs(request, context)


def echo_metadata(context):
    received = dict(context.invocation_metadata())
    if INITIAL in received:
        context.send_initial_metadata(((INITIAL, received[INITIAL]),))
    if TRAILING in received:
        context.set_trailing_metadata(((TRAILING, received[TRAILING]),))


def echo_status(request, context):
    if request.response_status.code:
        context.abort(CODES[request.response_status.code], request.response_status.message)


def health():
    """grpc.health.v1.Health, whose messages need no description: always SERVING."""

    def watch(request, context):
        yield SERVING
        over = threading.Event()
        context.add_callback(over.set)
        over.wait()

    table = {
        "Check": grpc.unary_unary_rpc_method_handler(lambda request, context: SERVING),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", table)


def serve(port, messages):
    server = grpc.server(futures.ThreadPoolExecutor(MAX_THREADS))
    server.add_generic_rpc_handlers((Server(messages).handlers(), health()))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


# The client.


class Client:
    def __init__(self, messages, target):
        self.messages = messages
        self.channel = grpc.insecure_channel(target)
        for name, (request, response, kind) in methods(messages).items():
            setattr(self, name, self.method(SERVICE, name, request, response, kind))

    def method(self, service, name, request, response, kind="unary_unary"):
        return getattr(self.channel, kind)(
            f"/{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def large(self, **fields):
        request = self.messages.SimpleRequest(response_size=LARGE_RESPONSE, **fields)
        request.payload.body = bytes(LARGE_REQUEST)
        return request

    def output(self, *sizes, payload=0):
        request = self.messages.StreamingOutputCallRequest()
        for size in sizes:
            request.response_parameters.add().size = size
        request.payload.body = bytes(payload)
        return request


def expect(condition, words):
    if not condition:
        raise AssertionError(words)


def must_fail(code, call):
    try:
        call()
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code()} ({error.details()}), not {code}")
        return error
    raise AssertionError(f"the call succeeded, and should have failed with {code}")


def empty_unary(client):
    client.EmptyCall(client.messages.Empty(), timeout=CALL_TIMEOUT)


def large_call(client, request, **options):
    response = client.UnaryCall(request, timeout=CALL_TIMEOUT, **options)
    expect(len(response.payload.body) == LARGE_RESPONSE, f"{len(response.payload.body)} bytes")


def large_unary(client):
    large_call(client, client.large())


def client_compressed_unary(client):
    yes, no = client.messages.BoolValue(value=True), client.messages.BoolValue(value=False)
    probe = client.large(expect_compressed=yes)
    must_fail(grpc.StatusCode.INVALID_ARGUMENT, lambda: client.UnaryCall(probe, timeout=CALL_TIMEOUT))
    large_call(client, client.large(expect_compressed=yes), compression=grpc.Compression.Gzip)
    large_call(client, client.large(expect_compressed=no))


def server_compressed_unary(client):
    for compressed in [True, False]:
        large_call(client, client.large(response_compressed=client.messages.BoolValue(value=compressed)))


def client_streaming(client):
    def requests():
        for size in REQUESTS:
            request = client.messages.StreamingInputCallRequest()
            request.payload.body = bytes(size)
            yield request

    response = client.StreamingInputCall(requests(), timeout=CALL_TIMEOUT)
    expect(response.aggregated_payload_size == sum(REQUESTS), str(response))


def server_streaming(client):
    responses = client.StreamingOutputCall(client.output(*RESPONSES), timeout=CALL_TIMEOUT)
    sizes = [len(response.payload.body) for response in responses]
    expect(sizes == RESPONSES, str(sizes))


def server_compressed_streaming(client):
    request = client.output(31415, 92653)
    request.response_parameters[0].compressed.value = True
    request.response_parameters[1].compressed.value = False
    responses = client.StreamingOutputCall(request, timeout=CALL_TIMEOUT)
    sizes = [len(response.payload.body) for response in responses]
    expect(sizes == [31415, 92653], str(sizes))


def ping_pong(client):
    pending = queue.Queue()
    responses = client.FullDuplexCall(iter(pending.get, None), timeout=CALL_TIMEOUT)
    for request, response in zip(REQUESTS, RESPONSES):
        pending.put(client.output(response, payload=request))
        size = len(next(responses).payload.body)
        expect(size == response, f"{size} bytes, not {response}")
    pending.put(None)
    expect(next(responses, None) is None, "the stream goes on")


def empty_stream(client):
    expect(not list(client.FullDuplexCall(iter(()), timeout=CALL_TIMEOUT)), "a response to nothing")


def custom_metadata(client):
    metadata = ((INITIAL, INITIAL_VALUE), (TRAILING, TRAILING_VALUE))
    request = client.messages.SimpleRequest(response_size=1)
    _, unary = client.UnaryCall.with_call(request, metadata=metadata, timeout=CALL_TIMEOUT)
    duplex = client.FullDuplexCall(iter([client.output(1)]), metadata=metadata, timeout=CALL_TIMEOUT)
    expect(len(list(duplex)) == 1, "one response")
    for call in [unary, duplex]:
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        expect(initial.get(INITIAL) == INITIAL_VALUE, str(initial))
        expect(trailing.get(TRAILING) == TRAILING_VALUE, str(trailing))


def unary_status(client, message):
    request = client.messages.SimpleRequest()
    request.response_status.code, request.response_status.message = 2, message
    error = must_fail(grpc.StatusCode.UNKNOWN, lambda: client.UnaryCall(request, timeout=CALL_TIMEOUT))
    expect(error.details() == message, repr(error.details()))


def status_code_and_message(client):
    unary_status(client, "test status message")
    request = client.output()
    request.response_status.code, request.response_status.message = 2, "test status message"
    call = client.FullDuplexCall(iter([request]), timeout=CALL_TIMEOUT)
    error = must_fail(grpc.StatusCode.UNKNOWN, lambda: list(call))
    expect(error.details() == "test status message", repr(error.details()))


def special_status_message(client):
    unary_status(client, SPECIAL)


def unimplemented_method(client):
    call = lambda: client.UnimplementedCall(client.messages.Empty(), timeout=CALL_TIMEOUT)
    must_fail(grpc.StatusCode.UNIMPLEMENTED, call)


def unimplemented_service(client):
    empty = client.messages.Empty
    call = client.method("grpc.testing.UnimplementedService", "UnimplementedCall", empty, empty)
    must_fail(grpc.StatusCode.UNIMPLEMENTED, lambda: call(empty(), timeout=CALL_TIMEOUT))


def cancel_after_begin(client):
    pending = queue.Queue()
    call = client.StreamingInputCall.future(iter(pending.get, None))
    call.cancel()
    pending.put(None)
    expect(call.code() == grpc.StatusCode.CANCELLED, str(call.code()))
    empty_unary(client)


def cancel_after_first_response(client):
    pending = queue.Queue()
    call = client.FullDuplexCall(iter(pending.get, None))
    pending.put(client.output(RESPONSES[0], payload=REQUESTS[0]))
    next(call)
    call.cancel()
    pending.put(None)
    must_fail(grpc.StatusCode.CANCELLED, lambda: next(call))
    empty_unary(client)


def timeout_on_sleeping_server(client):
    pending = queue.Queue()
    pending.put(client.output(payload=REQUESTS[0]))
    call = client.FullDuplexCall(iter(pending.get, None), timeout=0.001)
    must_fail(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(call))
    pending.put(None)


def pick_first_unary(client):
    request = client.messages.SimpleRequest(response_size=1, fill_server_id=True)
    seen = {client.UnaryCall(request, timeout=CALL_TIMEOUT).server_id for _ in range(100)}
    expect(len(seen) == 1 and "" not in seen, str(seen))


def ipv4_list_target(client):
    """A target with several addresses, whose authority is all of them."""
    empty_unary(client)


def call(case, host, port, messages):
    target = f"{host}:{port}"
    if case == "ipv4_list_target":
        target = f"ipv4:{target},{target}"
    globals()[case](Client(messages, target))


def main(arguments):
    match arguments:
        case ["serve", port, descriptors]:
            serve(int(port), Messages(descriptors))
        case ["call", case, host, port, descriptors]:
            call(case, host, int(port), Messages(descriptors))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
