// Package kube is the store of clusters with Kubernetes: Services, EndpointSlices, Pods, AddressPools, name servers, Service
// ranges and this node's Node object from the API server, as types of internal/model. Node records and blocks are in etcd;
// the agent merges both.
//
// It owns the connection to the API server and the reflectors' goroutines. It reads with a list followed by a watch, stores
// only the fields that warren uses, and delivers whole snapshots. While the API server is unreachable the last snapshot
// remains valid: a broken connection never removes an object. servers.go lists the API servers to try, connect.go dials.
package kube
