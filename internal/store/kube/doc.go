// Package kube is warren's store on Kubernetes: Services, EndpointSlices, Pods, Nodes and Service ranges from the API
// server, as plain model values. Nodes and blocks of the overlay stay in etcd; the agent joins the two.
//
// It owns the connection to the API server and the informers' goroutines. It reads with a list followed by a watch, keeps
// of each object only what the network acts on, and hands on whole snapshots. While the API server is away the last
// one stays valid; nothing is ever forgotten because a connection broke.
package kube
