"""ingest-fn's job in Python, as one would write it with boto3."""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import time
from datetime import datetime, timezone

import boto3
from botocore.config import Config

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LIMIT = (1 << 20) - 1024

config = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 20})
sqs = boto3.client("sqs", config=config)
ssm = boto3.client("ssm", config=config)


def read_keys():
    answer = ssm.get_parameter(Name=os.environ["WEBHOOK_KEYS_PARAMETER"], WithDecryption=True)
    lines = [line.strip() for line in answer["Parameter"]["Value"].splitlines()]
    return [hashlib.sha256(key.encode()).digest() for key in lines if len(key) >= 32], time.time()


keys, read_at = read_keys()
hurried_at = 0.0


def slot(key):
    global keys, read_at, hurried_at
    if time.time() - read_at >= 60:
        keys, read_at = read_keys()
    found = match(key)
    if found is None and time.time() - hurried_at >= 10:
        hurried_at = time.time()
        keys, read_at = read_keys()
        found = match(key)
    return found


def match(key):
    digest = hashlib.sha256(key).digest()
    found = None
    for number, active in enumerate(keys, 1):
        if hmac.compare_digest(active, digest):
            found = number
    return found


class Unusable(Exception):
    pass


def checked(name, value):
    if value is not None and not (isinstance(value, str) and ID.fullmatch(value)):
        raise Unusable("invalid-id", f"{name} is off the rule")
    return value


def read(body):
    try:
        event = json.loads(body.decode())
    except ValueError as err:
        raise Unusable("unreadable", "not JSON in UTF-8") from err
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str) or not kind:
        raise Unusable("no-type", "no type")
    if kind == "PING":
        return kind, event, None
    content = event.get("content")
    if content is not None and not isinstance(content, dict):
        raise Unusable("unreadable", "content is not an object")
    conversation = checked("content.conversationId", (content or {}).get("conversationId"))
    checked("id", event.get("id"))
    return kind, event, conversation


def send(url, body, name, value):
    attributes = {name: {"DataType": "String", "StringValue": value}}
    sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)


def receive(event):
    keys_given = [v for k, v in (event.get("headers") or {}).items() if k.lower() == "x-api-key"]
    number = slot(keys_given[0].encode()) if len(keys_given) == 1 and keys_given[0] else None
    if number is None:
        return 401, "unauthorized", "Unauthorized", None
    body = event.get("body") or ""
    try:
        body = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
    except binascii.Error:
        body = body.encode()
    received_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        kind, parsed, conversation = read(body)
        if kind == "PING":
            return 200, "pong", None, number
        if conversation is None:
            return 200, "ignored", "Ignored", number
        message = json.dumps({"v": 1, "receivedAt": received_at, "event": parsed}, separators=(",", ":"))
        if len(message) > LIMIT:
            raise Unusable("too-large", "more than a queue message holds")
        send(os.environ["EVENTS_QUEUE_URL"], message, "type", re.sub(r"[^ -~]", "?", kind[:128]))
        return 200, "queued", "Queued", number
    except Unusable as unusable:
        reason, detail = unusable.args
        message = {"v": 1, "receivedAt": received_at, "reason": reason, "detail": detail, "origin": "ingest-fn"}
        try:
            message["raw"] = body[: LIMIT // 8].decode()
        except UnicodeDecodeError:
            message |= {"raw": base64.b64encode(body[: LIMIT // 2]).decode(), "encoding": "base64"}
        send(os.environ["QUARANTINE_QUEUE_URL"], json.dumps(message), "reason", reason)
        return 200, "quarantined", "Quarantined", number


def handler(event, _context):
    try:
        status, word, metric, number = receive(event)
    except Exception:
        status, word, metric, number = 503, "unavailable", "Unavailable", None
    emit(metric, number)
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"status": word}, separators=(",", ":")),
    }


def emit(metric, number):
    function = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    names = [metric] if metric else []
    directives = [directive(["FunctionName"], names)]
    line = {"FunctionName": function, **dict.fromkeys(names, 1)}
    if number is not None:
        directives.append(directive(["FunctionName", "Slot"], ["KeySlot"]))
        line |= {"Slot": str(number), "KeySlot": 1}
    line["_aws"] = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": directives}
    print(json.dumps(line, separators=(",", ":")), flush=True)


def directive(dimensions, names):
    metrics = [{"Name": name, "Unit": "Count"} for name in names]
    return {"Namespace": "GladlyRelay", "Dimensions": [dimensions], "Metrics": metrics}
