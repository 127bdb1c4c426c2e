package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const clusterKey = "cluster.yaml"

// clusterFile is cluster.yaml: the agents' settings that the controller detects.
type clusterFile struct {
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	Domain       string         `json:"domain"`
	DNS          struct {
		Addresses []netip.Addr `json:"addresses"`
	} `json:"dns"`
	Etcd struct {
		Endpoints []string `json:"endpoints"`
	} `json:"etcd"`
	Kubernetes struct {
		Servers []string `json:"servers"`
	} `json:"kubernetes"`
}

// writeCluster creates and updates ConfigMap warren-cluster. It is not created before the endpoints of etcd and of the API
// server are known: the agents' Pods wait for it and would fail with incomplete settings.
func (k *controller) writeCluster(ctx context.Context, v view, f clusterFile, notes []string) error {
	for _, n := range notes {
		k.logOnce("cluster: "+n, slog.LevelInfo, "cluster settings are not configured; using detected values", "reason", n)
	}
	if missing := f.missing(); missing != "" {
		if v.cluster == nil {
			k.logOnce("waiting", slog.LevelInfo, "cannot create ConfigMap "+ClusterConfig+" yet", "reason", "missing: "+missing)
		}
		return nil
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	text = append([]byte("# Written by warren's controller. Put your own settings into ConfigMap "+OperatorConfig+".\n"), text...)
	api := k.Client.CoreV1().ConfigMaps(k.Namespace)
	if v.cluster == nil {
		_, err := api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: ClusterConfig, Namespace: k.Namespace, Labels: labels("config")},
			Data:       map[string]string{clusterKey: string(text)},
		}, metav1.CreateOptions{})
		if err == nil {
			k.Log.Info("created ConfigMap "+ClusterConfig, "podCIDRs", f.PodCIDRs, "serviceCIDRs", f.ServiceCIDRs, "dns", f.DNS.Addresses,
				"etcd", f.Etcd.Endpoints, "servers", f.Kubernetes.Servers)
		}
		return ignoreExisting(err, "create ConfigMap "+ClusterConfig)
	}
	if v.cluster.Data[clusterKey] == string(text) {
		return nil
	}
	cm := v.cluster.DeepCopy()
	cm.Data = map[string]string{clusterKey: string(text)}
	if _, err := api.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update ConfigMap %s: %w", ClusterConfig, err)
	}
	k.Log.Info("updated ConfigMap "+ClusterConfig, "etcd", f.Etcd.Endpoints, "servers", f.Kubernetes.Servers, "dns", f.DNS.Addresses)
	return nil
}

// missing names the settings that the agents need and that are unknown.
func (f *clusterFile) missing() string {
	var out []string
	if len(f.Etcd.Endpoints) == 0 {
		out = append(out, "an etcd member that serves")
	}
	if len(f.Kubernetes.Servers) == 0 {
		out = append(out, "EndpointSlices of Service default/kubernetes")
	}
	return strings.Join(out, " and ")
}

// parseCluster reads the current ConfigMap; the result is empty if it is missing or invalid.
func parseCluster(cm *corev1.ConfigMap) (f clusterFile) {
	if cm == nil || yaml.Unmarshal([]byte(cm.Data[clusterKey]), &f) != nil {
		return clusterFile{}
	}
	return f
}
