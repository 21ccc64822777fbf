"""A client without generated code: it learns the API from the broker itself, by server reflection.

Usage: client.py ADDRESS CA_FILE SENDER_TOKEN_FILE RECEIVER_TOKEN_FILE

Subscribes, publishes one message that passes and one that does not, and prints as JSON what became of them.
"""

import hashlib
import json
import queue
import struct
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_S = 20


class Api:
    """The RPCs of a server, found by name."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def services(self):
        return sorted(self.database.get_services())

    def message(self, name):
        return GetMessageClass(self.pool.FindMessageTypeByName(name))

    def rpc(self, service, name):
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        kind = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        return kind(
            f"/{service}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


def bearer(token_file):
    with open(token_file, encoding="ascii") as file:
        return [("authorization", "Bearer " + file.read().strip())]


def parts(*values):
    """Each part behind its length, as `proto/docs/content-digest.md` says."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


def content_digest(salt, message):
    micros = message.time.seconds * 1_000_000 + message.time.nanos // 1_000
    time = struct.pack(">q", micros) if message.HasField("time") else b""
    attributes = sorted((key.encode(), value.encode()) for key, value in message.attributes.items())
    content = parts(
        "veribus/1/message", message.id, message.topic, message.type, message.subject, time, message.datacontenttype,
        message.destination, message.reply_to, message.correlation_id, struct.pack(">Q", len(attributes)),
        *(text for pair in attributes for text in pair), message.data,
    )
    return hashlib.sha256(salt + hashlib.sha256(content).digest()).hexdigest()


def main(address, ca_file, sender_token, receiver_token):
    with open(ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
    with grpc.secure_channel(address, credentials) as channel:
        print(json.dumps(talk(Api(channel), bearer(sender_token), bearer(receiver_token))))


def talk(api, sender, receiver):
    message, publish_request, subscription, subscribe_request = (
        api.message("veribus.v1." + name) for name in ("Message", "PublishRequest", "Subscription", "SubscribeRequest")
    )
    requests = queue.Queue()
    requests.put(subscribe_request(subscription=subscription(patterns=["finance.>"])))
    subscribe = api.rpc("veribus.v1.BrokerService", "Subscribe")
    responses = subscribe(iter(requests.get, None), metadata=receiver, timeout=TIMEOUT_S)
    subscribed = next(responses).subscribed

    def transaction(destination):
        return publish_request(
            message=message(
                topic="finance.transactions",
                type="finance.transaction",
                datacontenttype="application/json",
                data=b'{"amount": 12}',
                destination=destination,
                subject="order 7",
                correlation_id="case 9",
                attributes={"verdict": "approved", "by": "audit"},
            )
        )

    publish = api.rpc("veribus.v1.BrokerService", "Publish")
    receipt = publish(transaction("role:compliance"), metadata=sender, timeout=TIMEOUT_S).receipt
    try:
        publish(transaction("role:finance"), metadata=sender, timeout=TIMEOUT_S)
        denied = "passed"
    except grpc.RpcError as error:
        denied = error.code().name
    [delivery] = next(responses).batch.deliveries
    requests.put(None)
    return {
        "services": api.services(),
        "subscription_id": subscribed.subscription_id,
        "receipt_index": receipt.audit_index,
        "delivery_index": delivery.audit_index,
        "sender": delivery.sender.agent,
        "data": delivery.message.data.decode(),
        "content_digest": content_digest(delivery.content_salt, delivery.message),
        "denied": denied,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
