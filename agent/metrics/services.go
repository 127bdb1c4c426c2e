package metrics

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/warrennet/warren/servicelb"
)

var (
	metricFlows = desc("warren_flows",
		"Translated flows by state.", "state")
	metricOffloaded = desc("warren_offloaded_flows",
		"Flows between Pods of this node that the eBPF program forwards.")
	metricOpened = desc("warren_flows_opened_total",
		"Flows opened.")
	metricEnded = desc("warren_flows_ended_total",
		"Flows ended because their backend or address was deleted.")
	metricLBDrops = desc("warren_service_dropped_packets_total",
		"Packets that the load balancer dropped or rejected, by reason.", "reason")
	metricFrontends = desc("warren_service_frontends",
		"Service addresses and ports in the table.")
	metricServiceConnections = desc("warren_service_connections_total",
		"Connections that this node has balanced, by Service: the 50 busiest and \"other\".", "service")
	metricServiceEjections = desc("warren_service_ejections_total",
		"Endpoints that this node has ejected because connections to them failed, by Service: the 50 busiest and "+
			"\"other\".", "service")
	metricServicePackets = desc("warren_service_packets_total",
		"Packets to backends (request) and from them (reply), by Service: the 50 busiest and \"other\".", "service", "direction")
	metricServiceBytes = desc("warren_service_bytes_total",
		"Bytes of the packets that warren_service_packets_total counts, IP headers included.", "service", "direction")
)

func servicesDescribe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricFlows, metricOpened, metricEnded, metricLBDrops, metricFrontends, metricServiceConnections,
		metricServicePackets, metricServiceBytes, metricServiceEjections, metricOffloaded} {
		ch <- d
	}
}

func servicesCollect(ch chan<- prometheus.Metric, s servicelb.Stats, frontends int) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Flows)) {
		ch <- prometheus.MustNewConstMetric(metricFlows, prometheus.GaugeValue, float64(s.Flows[k]), k)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Dropped)) {
		count(metricLBDrops, s.Dropped[k], k)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Services)) {
		t := s.Services[k]
		count(metricServiceConnections, t.Connections, k)
		count(metricServiceEjections, t.Ejections, k)
		for direction, v := range map[string]servicelb.Volume{"request": t.Requests, "reply": t.Replies} {
			count(metricServicePackets, v.Packets, k, direction)
			count(metricServiceBytes, v.Bytes, k, direction)
		}
	}
	ch <- prometheus.MustNewConstMetric(metricOffloaded, prometheus.GaugeValue, float64(s.Offloaded))
	count(metricOpened, s.Opened)
	count(metricEnded, s.Ended)
	ch <- prometheus.MustNewConstMetric(metricFrontends, prometheus.GaugeValue, float64(frontends))
}
