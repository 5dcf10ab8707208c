"""Kubernetes' own API server on this machine: the chart is applied to it, and the Kubernetes target tried on it."""
