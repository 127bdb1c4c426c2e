package agent

import (
	"context"
	"time"

	"github.com/warrennet/warren/agent/clusterdns"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/membership"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/kube"
	"github.com/warrennet/warren/internal/version"
	"github.com/warrennet/warren/ipam"
)

// connectKubernetes prepares the client when this is a Kubernetes node.
func (a *Agent) connectKubernetes() error {
	c := a.cfg.Kubernetes
	if !c.Enabled {
		return nil
	}
	var err error
	a.kube, err = kube.Connect(kube.Config{Kubeconfig: c.Kubeconfig, TokenFile: c.TokenFile, CAFile: c.CAFile, ServerName: c.ServerName,
		UserAgent: "warren-agent/" + version.Version}, a.apiServers(c))
	if err != nil {
		return err
	}
	a.keepAPIServers(c.Servers)
	return nil
}

// apiServers are the addresses of API servers in the order in which they are tried.
func (a *Agent) apiServers(c config.Kubernetes) []string {
	cached, err := a.disk.APIServers()
	if err != nil {
		a.log.Warn("ignoring unreadable cached list of API servers", "err", err)
	}
	out, err := kube.Candidates{Configured: c.Servers, HostIP: c.HostIP, Cached: cached}.List()
	if err != nil {
		a.log.Warn("ignoring invalid addresses of API servers", "err", err)
	}
	return out
}

// zone is the setting if it is set here, else the label of the Node object.
func (a *Agent) zone() string {
	if a.cfg.Zone == "" {
		return a.source.Node().Zone
	}
	return a.cfg.Zone
}

// clusterFileCheck is how often the file of the cluster's settings is compared. The kubelet updates it within a minute.
const clusterFileCheck = 2 * time.Second

// followClusterFile applies changes of the cluster's own settings while the agent runs: servers of etcd and of the API, and the
// addresses of cluster DNS. Other changed settings are logged and need a restart.
func (a *Agent) followClusterFile(ctx context.Context) {
	kube.FollowFiles(ctx, []string{a.cfg.ClusterFile()}, clusterFileCheck, func() {
		cfg, err := a.cfg.Reload()
		if err != nil {
			a.log.Error("rejected invalid cluster settings; keeping previous settings", "err", err)
			return
		}
		a.takeConfig(cfg)
	})
}

// takeConfig applies the settings that need no restart.
func (a *Agent) takeConfig(cfg config.Config) {
	if a.kube != nil {
		a.kube.SetServers(a.apiServers(cfg.Kubernetes))
		a.keepAPIServers(cfg.Kubernetes.Servers)
	}
	a.store.SetEndpoints(cfg.Etcd.Endpoints)
	a.names.SetAddresses(cfg.ClusterDNS)
	a.kick()
	if keys := config.Changed(&a.cfg, &cfg); len(keys) > 0 {
		a.log.Warn("changed settings need a restart of the agent", "key", keys)
	}
	a.log.Info("applied cluster settings", "servers", cfg.Kubernetes.Servers, "etcd", cfg.Etcd.Endpoints, "dns", cfg.ClusterDNS)
}

func (a *Agent) keepAPIServers(servers []string) {
	if len(servers) == 0 {
		return
	}
	if err := a.disk.SetAPIServers(servers); err != nil {
		a.log.Warn("cannot cache the list of API servers on disk", "err", err)
	}
}

// proxyHealth is what kube-proxy's health port reports: the time of the last apply without an error, zero before the first
// one, and whether the Node object stays.
func (a *Agent) proxyHealth() (updated time.Time, eligible bool) {
	if s := a.loop.State(); s != nil {
		updated = s.Succeeded
	}
	return updated, !a.source.Node().Deleting
}

// dnsConfig is the configuration of the DNS server.
func (a *Agent) dnsConfig() clusterdns.Config {
	c := &a.cfg
	out := clusterdns.Config{Addresses: c.ClusterDNS, LogQueries: c.DNS.LogQueries, Kubernetes: a.kube != nil,
		Cluster: a.member.Cluster, Blocks: a.member.Blocks, Pods: a.records, SaveNameservers: a.disk.SetNameservers,
		Sockets: a.sockets, Log: a.log}
	out.DNS = c.DNSServer()
	if len(c.DNS.Autopath) > 0 {
		out.Autopath = c.DNS.Autopaths
	}
	return out
}

// memberConfig is the configuration of this node's membership.
func (a *Agent) memberConfig() membership.Config {
	c := &a.cfg
	return membership.Config{Node: c.NodeName, Identity: a.identity, Cluster: c.Cluster, Agree: c.Agree, ServiceCIDRs: c.ServiceCIDRs,
		MaxBlocks: c.MaxBlocks, Kubernetes: a.kube != nil, Store: a.store, Objects: a.store.Objects, Disk: a.disk, Source: a.source,
		Pool: func() membership.Pool { return a.pool }, Pods: func() map[model.ObjectName]model.Pod { return a.pods.Attached() },
		Changed: a.kick, Log: a.log}
}

// records are those of the attached Pods.
func (a *Agent) records() []ipam.Record { return a.cni.Pods() }
