package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const questions = 20000

// zone calls put with every record of n Services in master file format (RFC 1035 section 5).
func zone(n int, put func(record string)) {
	soa := " 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"
	put("cluster.local." + soa)
	put("cluster.local. 30 IN NS ns.dns.cluster.local.")
	put("ns.dns.cluster.local. 30 IN A 10.96.255.10")
	for i := range n {
		name, a := service(i)
		full := name + ".default.svc.cluster.local."
		put(fmt.Sprintf("%s 30 IN A %s", full, a))
		put(fmt.Sprintf("_http._tcp.%s 30 IN SRV 0 100 80 %s", full, full))
	}
}

func reverse(n int, put func(record string)) {
	put("10.in-addr.arpa. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30")
	put("10.in-addr.arpa. 30 IN NS ns.dns.cluster.local.")
	for i := range n {
		name, _ := service(i)
		put(fmt.Sprintf("%s 30 IN PTR %s.default.svc.cluster.local.", arpa(i), name))
	}
}

func arpa(i int) string {
	_, a := service(i)
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
}

// question returns one question of the mix: 35 % A, 25 % AAAA without data, 25 % steps of a search list that do not exist,
// 10 % SRV, 5 % PTR.
func question(r *rand.Rand, n int) string {
	i := r.IntN(n)
	name, _ := service(i)
	full := name + ".default.svc.cluster.local."
	switch t := r.Float64(); {
	case t < .35:
		return full + " A"
	case t < .60:
		return full + " AAAA"
	case t < .75:
		return full + "default.svc.cluster.local. A"
	case t < .80:
		return "www.example.com.default.svc.cluster.local. A"
	case t < .85:
		return fmt.Sprintf("api%d.example.com.svc.cluster.local. AAAA", i%500)
	case t < .95:
		return "_http._tcp." + full + " SRV"
	}
	return arpa(i) + " PTR"
}

func files(dir string, n int) error {
	if err := write(filepath.Join(dir, "zone"), func(put func(string)) { zone(n, put) }); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "reverse"), func(put func(string)) { reverse(n, put) }); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(7, 7))
	return write(filepath.Join(dir, "questions"), func(put func(string)) {
		for range questions {
			put(question(r, n))
		}
	})
}

func write(path string, fill func(put func(string))) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fill(func(line string) { fmt.Fprintln(w, line) })
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
