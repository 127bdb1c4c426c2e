package objects

import corev1 "k8s.io/api/core/v1"

// HandEndpoints is core/v1 Endpoints. The API has replaced it by EndpointSlice, but hand-written manifests still use it.
//
//lint:ignore SA1019 manifests with Endpoints are still served
type HandEndpoints = corev1.Endpoints
