"""The `etcd` engine; README.md of `callboard.consensus` tells for whom it is."""

from callboard.consensus.etcd_engine.engine import EtcdEngine
from callboard.consensus.etcd_engine.options import EtcdOptions, ManagedEtcd, ManagedPeer, TlsFiles

__all__ = ["EtcdEngine", "EtcdOptions", "ManagedEtcd", "ManagedPeer", "TlsFiles"]
