"""Real replica processes of every engine, driven through pipes: crash trials and a benchmark.

node      one replica as a process that takes JSON lines on stdin and answers on stdout
unguarded the library as it comes, behind the same few methods as an engine, as the reference
group     starts, asks and kills the processes of one group
trials    kill -9 of all replicas at the moment of compaction: is anything acknowledged lost?
measure   commits per second, latency, failover
"""
