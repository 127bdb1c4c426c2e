package main

import (
	"context"
	"fmt"
	"net"
	"sort"
	"strconv"
	"time"
)

// pongserver answers each UDP datagram with itself.
func pongserver(ctx context.Context, args []string) error {
	c, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(buf[:n], from); err != nil {
			return err
		}
	}
}

// pingpong sends one datagram after the other for some seconds and prints "p50 p99" of the round trip in microseconds.
func pingpong(_ context.Context, args []string) error {
	seconds, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	var took []float64
	buf := make([]byte, 64)
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if err := c.SetReadDeadline(start.Add(time.Second)); err != nil {
			return err
		}
		if _, err := c.Read(buf); err != nil {
			continue // lost: the next one counts
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
	}
	if len(took) == 0 {
		return fmt.Errorf("no answer from %s", args[0])
	}
	sort.Float64s(took)
	fmt.Printf("%.1f %.1f\n", took[len(took)/2], took[len(took)*99/100])
	return nil
}
