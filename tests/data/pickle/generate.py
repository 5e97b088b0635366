"""Writes the .pt files of this folder: the good ones as torch.save writes them, and attacks.

Needs Python only, no PyTorch: classes of the same names stand in for its own. The files are
committed; run this again only to add one: python3 generate.py
"""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

torch, utils, torch_storage = (types.ModuleType(n) for n in ("torch", "torch._utils", "torch.storage"))
sys.modules.update({"torch": torch, "torch._utils": utils, "torch.storage": torch_storage})


def function(module, name):
    def f(*args):
        raise RuntimeError
    f.__module__, f.__name__, f.__qualname__ = module.__name__, name, name
    setattr(module, name, f)
    return f


rebuild_v2 = function(utils, "_rebuild_tensor_v2")
rebuild_v3 = function(utils, "_rebuild_tensor_v3")
rebuild_parameter = function(utils, "_rebuild_parameter")
KINDS = {"FloatStorage": 4, "BFloat16Storage": 2, "HalfStorage": 2, "LongStorage": 8, "DoubleStorage": 8}
for kind in KINDS:
    setattr(torch, kind, type(kind, (), {"__module__": "torch", "__qualname__": kind}))
torch_storage.UntypedStorage = type("UntypedStorage", (), {"__module__": "torch.storage", "__qualname__": "UntypedStorage"})
dtype = function(torch, "float8_e4m3fn")  # pickled by name, as a dtype is


class Storage:
    def __init__(self, key, kind, elements, data=None, element_bytes=None):
        self.kind = getattr(torch, kind, None) or torch_storage.UntypedStorage
        self.key, self.elements = key, elements
        size = elements * (element_bytes or KINDS.get(kind, 1))
        self.data = bytes(i % 251 for i in range(size)) if data is None else data


class Call:
    """Pickled as function(*args)."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def tensor(storage, shape, stride=None, offset=0):
    if stride is None:
        stride, run = [], 1
        for n in reversed(shape):
            stride.insert(0, run)
            run *= n
    return Call(rebuild_v2, storage, offset, tuple(shape), tuple(stride), False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, x):
        return ("storage", x.kind, x.key, "cpu", x.elements) if isinstance(x, Storage) else None


def dumps(value, protocol=2):
    out = io.BytesIO()
    Pickler(out, protocol=protocol).dump(value)
    return out.getvalue()


def save(name, pickled, storages=(), byteorder=b"little", compress=False):
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    prefix = name.removesuffix(".pt")
    with zipfile.ZipFile(name, "w", method) as z:
        def add(entry, data):
            z.writestr(zipfile.ZipInfo(f"{prefix}/{entry}"), data, method)
        add("data.pkl", pickled)
        add("byteorder", byteorder)
        for s in storages:
            add(f"data/{s.key}", s.data)
        add("version", b"3\n")


def good():
    a, b = Storage("0", "BFloat16Storage", 12), Storage("1", "FloatStorage", 6)
    state = collections.OrderedDict([("weight", tensor(a, (3, 4))), ("bias", tensor(b, (2,), offset=4))])
    state._metadata = collections.OrderedDict(version=1)
    value = {
        "module": {"language_model": {"a": state, "b.c.weight": tensor(b, (2, 2))}},
        "parameter": Call(rebuild_parameter, tensor(a, (2, 2), offset=8), True, collections.OrderedDict()),
        "checkpoint_version": 3.0,
        "iteration": 2**40,
        "flag": True,
        "nothing": None,
        "num_experts": [4, 8],
        "name": "gpt\u00e9",
        "args": types.SimpleNamespace(a=1),
        "state": (3, tuple(range(100))),
        "negative": -(2**33),
        "huge": 2**100,
        5: "five",
        "double": tensor(Storage("2", "DoubleStorage", 1), (1,)),
        "transposed": tensor(b, (2, 3), stride=(1, 2)),
        "scalar": tensor(b, (), offset=5),
        "empty": tensor(b, (0, 7)),
    }
    storages = [a, b, Storage("2", "DoubleStorage", 1)]
    save("good.pt", dumps(value), storages)
    save("protocol4.pt", dumps(value, 4), storages)
    c = Storage("0", "", 8)
    save("untyped.pt", dumps({"w": Call(rebuild_v3, c, 2, (2, 3), (3, 1), False, collections.OrderedDict(), dtype, {})}), [c])


def patched(name, source, change):
    data = bytearray(open(source, "rb").read())
    change(data)
    open(name, "wb").write(data)


def attacks():
    a = Storage("0", "FloatStorage", 4)
    call = b"cos\nsystem\nX" + struct.pack("<I", 33) + b"touch /tmp/shunt_a_pickle_was_run" + b"\x85R"
    key = lambda k: b"X" + struct.pack("<I", len(k)) + k
    good_part = dumps({"good": tensor(a, (4,))})[2:-1]  # without PROTO and STOP
    whole = lambda body: b"\x80\x02" + body + b"."
    # {"w": os.system(...), "good": tensor}; the tensor's sizes from os.system; all of it os.system.
    save("os_system.pt", whole(good_part + b"(" + key(b"w") + call + key(b"module") + call + b"u"), [a])
    inner = dumps(tensor(a, (4,)))
    at = inner.index(b"K\x04\x85")
    save("os_system_shape.pt", whole(b"}" + key(b"w") + inner[2:at] + call + inner[at + 3:-1] + b"s"), [a])
    save("os_system_root.pt", whole(call), [a])
    save("deep_list.pt", whole(b"]" * 10000 + b"a" * 9999))
    save("deep_tuple.pt", whole(b")" + b"\x85" * 10000))
    save("deep_mark.pt", whole(b"(" * 10000 + b"N" + b"t" * 10000))
    save("deep_dict.pt", whole((b"}" + key(b"k")) * 10000 + b"N" + b"s" * 10000))
    # A list that holds itself, and one that is 2^60 long when written out.
    save("cycle.pt", whole(b"]q\x00h\x00a"))
    save("shared.pt", whole(b"]q\x00" + b"".join(b"]h" + bytes([i]) + b"ah" + bytes([i]) + b"aq" + bytes([i + 1]) for i in range(60))))
    save("short_storage.pt", dumps({"w": tensor(a, (4,))}), [Storage("0", "FloatStorage", 4, b"\0" * 15)])
    save("missing_storage.pt", dumps({"w": tensor(a, (4,))}), [])
    save("outside_storage.pt", dumps({"w": tensor(a, (2, 2), (2, 2))}), [a])
    save("outside_offset.pt", dumps({"w": tensor(a, (2, 2), offset=1)}), [a])
    save("overflow.pt", dumps({"w": tensor(a, (2**62, 2**62), (2**62, 1))}), [a])
    save("negative_stride.pt", dumps({"w": tensor(a, (2,), (-1,))}), [a])
    save("compressed.pt", dumps({"w": tensor(a, (4,))}), [a], compress=True)
    save("big_endian.pt", dumps({"w": tensor(a, (4,))}), [a], byteorder=b"big")
    save("two_paths.pt", dumps({"a": {"b": 1}, "a.b": 2}))
    save("empty_pickle.pt", b"")
    save("bad_memo.pt", whole(b"h\x07"))
    save("protocol0.pt", b"(lp0\nI1\na.")
    save("entry.pt", dumps({"w": tensor(a, (4,))}), [a])

    def directory(data):
        return struct.unpack_from("<I", data, len(data) - 6)[0]

    def set_size(data):  # of the first entry, to far outside
        for field in (20, 24):
            struct.pack_into("<I", data, directory(data) + field, 0x7fffffff)

    def set_offset(data):
        struct.pack_into("<I", data, directory(data) + 42, 0x7fffffff)

    def overlap(data):  # the second entry is the first one's header
        at = directory(data)
        second = at + 46 + sum(struct.unpack_from("<HHH", data, at + 28))
        struct.pack_into("<I", data, second + 42, 0)

    patched("outside_size.pt", "entry.pt", set_size)
    patched("outside_header.pt", "entry.pt", set_offset)
    patched("overlap.pt", "entry.pt", overlap)
    patched("outside_directory.pt", "entry.pt", lambda d: struct.pack_into("<I", d, len(d) - 6, 0x7fffffff))
    patched("truncated.pt", "entry.pt", lambda d: d.__delitem__(slice(200, None)))
    os.remove("entry.pt")


os.chdir(os.path.dirname(os.path.abspath(__file__)))
good()
attacks()
