// Package controller writes to the Kubernetes API. One leader among the control-plane nodes runs it.
//
// It makes and updates what agents need to start: the certificate authority and client certificate of etcd, and ConfigMap
// warren-cluster with ranges and addresses. It writes the EndpointSlices of the cluster DNS Service, clears the node
// condition NetworkUnavailable, assigns addresses of AddressPools to Services of type LoadBalancer, writes the addresses of the
// HTTP Ingress to the status of Ingresses, and reports in Events what warren does not support.
//
// It owns Secrets warren-etcd-ca and warren-etcd-client, ConfigMap warren-cluster, EndpointSlices with its label, and the
// addresses that it assigned in the status of Services and Ingresses. It never changes what an operator made: the operator's config.yaml
// takes precedence over every setting that the controller detects.
//
// State flows in one direction: informers -> view -> desired objects (pure functions) -> one pass of writes. The data plane
// does not depend on the controller: without it the cluster works, but changes are not processed.
package controller
