//go:build race

package udpbind

// raceOn: under the race detector sync.Pool forgets at random, so allocations cannot be counted.
const raceOn = true
