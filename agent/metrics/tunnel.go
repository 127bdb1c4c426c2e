package metrics

import (
	"sort"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/warrennet/warren/tunnel"
)

var metricDrops = desc("warren_tunnel_dropped_packets_total",
	"Packets dropped in the tunnel, by reason.", "reason")

// tunnelCounters are the tunnel's counters as metrics.
var tunnelCounters = []struct {
	desc  *prometheus.Desc
	value func(tunnel.Stats) uint64
}{
	{counterDesc("read_packets", "Packets read from the TUN; a super-packet is one."),
		func(s tunnel.Stats) uint64 { return s.Supers }},
	{counterDesc("read_segments", "Packets passed to the WireGuard device after segmentation."),
		func(s tunnel.Stats) uint64 { return s.Segments }},
	{counterDesc("written_packets", "Packets written to the TUN; a super-packet is one."),
		func(s tunnel.Stats) uint64 { return s.Writes }},
	{counterDesc("written_segments", "Segments in the packets written to the TUN."),
		func(s tunnel.Stats) uint64 { return s.Written }},
	{counterDesc("sent_datagrams", "UDP datagrams sent to peers."),
		func(s tunnel.Stats) uint64 { return s.Datagrams }},
	{counterDesc("received_datagrams", "UDP datagrams received."),
		func(s tunnel.Stats) uint64 { return s.Received }},
	{counterDesc("send_fallbacks", "Segmented sends repeated datagram by datagram."),
		func(s tunnel.Stats) uint64 { return s.Fallbacks }},
	{counterDesc("segmentation_downgrades", "Segmentation offloads disabled because the kernel refused them."),
		func(s tunnel.Stats) uint64 { return s.Downgrades }},
	{counterDesc("handshakes", "WireGuard handshakes completed."),
		func(s tunnel.Stats) uint64 { return s.Handshakes }},
	{counterDesc("endpoint_rotations", "Changes from an endpoint of a peer to its next one."),
		func(s tunnel.Stats) uint64 { return s.Rotations }},
	{counterDesc("reopens", "TUN devices recreated after their deletion by another process."),
		func(s tunnel.Stats) uint64 { return s.Reopens }},
}

func counterDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("warren_tunnel_"+name+"_total", help, nil, nil)
}

func tunnelDescribe(ch chan<- *prometheus.Desc) {
	ch <- metricDrops
	for _, c := range tunnelCounters {
		ch <- c.desc
	}
}

func tunnelCollect(ch chan<- prometheus.Metric, s tunnel.Stats) {
	reasons := make([]string, 0, len(s.Drops))
	for r := range s.Drops {
		reasons = append(reasons, r)
	}
	sort.Strings(reasons)
	for _, r := range reasons {
		ch <- prometheus.MustNewConstMetric(metricDrops, prometheus.CounterValue, float64(s.Drops[r]), r)
	}
	for _, c := range tunnelCounters {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(c.value(s)))
	}
}
