# Stands for docker.io/jodogne/orthanc-plugins where no registry can be reached: Debian's Orthanc.
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends orthanc orthanc-dicomweb orthanc-webviewer \
 && rm -rf /var/lib/apt/lists/* /etc/orthanc/*
RUN install -d /var/lib/orthanc/db
VOLUME /var/lib/orthanc/db
EXPOSE 4242 8042
ENTRYPOINT ["Orthanc"]
CMD ["/etc/orthanc/"]
