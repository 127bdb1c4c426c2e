package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/warrennet/warren/servicelb/announce"
)

var (
	metricAnnounced = desc("warren_lb_announced_addresses",
		"Load balancer addresses that this node announces.")
	metricLBWanted = desc("warren_lb_addresses",
		"Load balancer addresses of the cluster, by whether some node announces them.", "announced")
	metricTakeovers = desc("warren_lb_takeovers_total",
		"Addresses that this node took over from another one.")
	metricDuplicates = desc("warren_lb_duplicates_total",
		"Load balancer addresses that a machine outside of the cluster uses.")
	metricBeating = desc("warren_lb_peers_healthy",
		"Other nodes whose heartbeats are received; none are sent while there is nothing to announce.")
)

func announceDescribe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricAnnounced, metricLBWanted, metricTakeovers, metricDuplicates, metricBeating} {
		ch <- d
	}
}

func announceCollect(ch chan<- prometheus.Metric, v announce.View) {
	by := map[bool]float64{}
	for _, s := range v.Addresses {
		by[s.Owner != ""]++
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	gauge(metricAnnounced, float64(v.Stats.Announced))
	gauge(metricLBWanted, by[true], "yes")
	gauge(metricLBWanted, by[false], "no")
	gauge(metricBeating, float64(v.Stats.Healthy))
	ch <- prometheus.MustNewConstMetric(metricTakeovers, prometheus.CounterValue, float64(v.Stats.Takeovers))
	ch <- prometheus.MustNewConstMetric(metricDuplicates, prometheus.CounterValue, float64(v.Stats.Duplicates))
}
