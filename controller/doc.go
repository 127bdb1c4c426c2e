// Package controller is the part of warren that writes to Kubernetes' API: one leader among the control-plane nodes.
//
// It makes what agents need before there is a network (authority and certificate for etcd, ConfigMap warren-cluster with
// ranges and addresses) and keeps it current; serves cluster DNS's Service with EndpointSlices; clears the node condition
// NetworkUnavailable; gives Services of type LoadBalancer addresses of AddressPools; and says in Events what warren cannot
// do. It owns those objects and no others: Secrets warren-etcd-ca and warren-etcd-client, ConfigMap warren-cluster,
// EndpointSlices labelled as its own, in Services' status the addresses that it gave. What a person made
// or changed stays: his config.yaml wins over everything that is found out here.
//
// State goes one way: informers -> view -> desired objects (pure functions) -> one pass of writes. The data plane needs
// none of this while it runs: the cluster goes on without a controller, it only learns nothing new.
package controller
