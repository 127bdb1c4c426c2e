package agent

import (
	"sort"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/warrennet/warren/servicelb"
)

var (
	metricFlows      = prometheus.NewDesc("warren_flows", "Translated flows by state.", []string{"state"}, nil)
	metricOpened     = prometheus.NewDesc("warren_flows_opened_total", "Flows begun.", nil, nil)
	metricEnded      = prometheus.NewDesc("warren_flows_ended_total", "Flows ended because their backend or address vanished.", nil, nil)
	metricLBDrops    = prometheus.NewDesc("warren_service_dropped_packets_total", "Packets that the load balancer did not pass on, by reason; some were answered.", []string{"reason"}, nil)
	metricFrontends  = prometheus.NewDesc("warren_service_frontends", "Service addresses and ports in the table.", nil, nil)
	metricPerService = prometheus.NewDesc("warren_service_connections", "Connections of the Services that have most, at most 1,000 Services.", []string{"service"}, nil)
)

func servicesDescribe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricFlows, metricOpened, metricEnded, metricLBDrops, metricFrontends, metricPerService} {
		ch <- d
	}
}

func servicesCollect(ch chan<- prometheus.Metric, s servicelb.Stats, frontends int) {
	each := func(m map[string]uint64, d *prometheus.Desc, t prometheus.ValueType) {
		keys := make([]string, 0, len(m))
		for k := range m {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			ch <- prometheus.MustNewConstMetric(d, t, float64(m[k]), k)
		}
	}
	each(s.Flows, metricFlows, prometheus.GaugeValue)
	each(s.Dropped, metricLBDrops, prometheus.CounterValue)
	each(s.Services, metricPerService, prometheus.GaugeValue)
	ch <- prometheus.MustNewConstMetric(metricOpened, prometheus.CounterValue, float64(s.Opened))
	ch <- prometheus.MustNewConstMetric(metricEnded, prometheus.CounterValue, float64(s.Ended))
	ch <- prometheus.MustNewConstMetric(metricFrontends, prometheus.GaugeValue, float64(frontends))
}
